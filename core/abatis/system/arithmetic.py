"""How float32 is multiplied and added: torch's global switches, set for a block and restored.

On a GPU, convolutions and matrix products may round their inputs to TF32, which has 10 bits of
mantissa. torch has two sets of switches for that, which must agree: an older one by library, and
``fp32_precision`` by library and operation, where "none" inherits the value of the level above.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")

FULL, ROUNDED, INHERITED = "ieee", "tf32", "none"
ON_GPU = ("cuda.matmul", "cudnn.conv", "cudnn.rnn")
ON_CPU = ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS adds in a fixed order where this is set


def use_full_float32() -> AbstractContextManager[None]:
    """Inside, float32 is multiplied in full on every device, and cuDNN searches for nothing.

    Its search for the fastest convolution would start anew at every size of a batch, and the
    batches of an attack shrink.
    """
    return _use(tf32=False, benchmark=False)


def use_run_arithmetic(
    device: torch.device, tf32: bool, deterministic: bool
) -> AbstractContextManager[None]:
    """Inside, torch computes as a run asks for. On the CPU, float32 is always multiplied in full.

    Args:
        device: of the run.
        tf32: ``--tf32``: on a GPU, both convolutions and matrix products round to TF32.
        deterministic: ``--deterministic``: sums are made in a fixed order; an operation that cannot
            do so raises a RuntimeError.
    """
    on_gpu = device.type == "cuda"
    return _use(
        tf32=tf32 and on_gpu, benchmark=on_gpu and not deterministic, deterministic=deterministic
    )


@contextmanager
def _use(tf32: bool, benchmark: bool, deterministic: bool = False) -> Iterator[None]:
    cudnn = torch.backends.cudnn
    searched = cudnn.benchmark
    with ExitStack() as others:
        others.enter_context(_multiply(tf32))
        if deterministic:
            others.enter_context(_add_in_order())
        cudnn.benchmark = benchmark
        try:
            yield
        finally:
            cudnn.benchmark = searched


@contextmanager
def _add_in_order() -> Iterator[None]:
    """Inside, torch and cuDNN take only algorithms whose sums have a fixed order."""
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    own = os.environ.get(WORKSPACE)
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warns)
        cudnn.deterministic = before[1]
        if own is None:
            del os.environ[WORKSPACE]


@contextmanager
def _multiply(tf32: bool) -> Iterator[None]:
    """Inside, all products are in TF32 on a GPU, or in full everywhere."""
    found = _Switches.read()
    _Switches(
        None if found.products is None else "high" if tf32 else "highest",
        None if found.convolutions is None else tf32,
        {name: ROUNDED if tf32 and name in ON_GPU else FULL for name in found.operations},
    ).write()
    try:
        yield
    finally:
        found.write()


@dataclass(frozen=True)
class _Switches:
    """What torch's switches say; None for one that is left alone.

    Args:
        products: the older switch of matrix products.
        convolutions: the older switch of cuDNN.
        operations: the newer switch of every operation, as far as this torch has them.
    """

    products: str | None
    convolutions: bool | None
    operations: dict[str, str]

    @staticmethod
    def read() -> _Switches:
        with _ignore_warnings():
            found = {name: _get_precision(name) for name in (*ON_GPU, *ON_CPU)}
            return _Switches(
                _read_older(torch.get_float32_matmul_precision),
                _read_older(lambda: torch.backends.cudnn.allow_tf32),
                {name: value for name, value in found.items() if value is not None},
            )

    def write(self) -> None:
        """Set the older ones first, as they change some of the newer ones."""
        with _ignore_warnings():
            if self.products is not None:
                torch.set_float32_matmul_precision(self.products)
            if self.convolutions is not None:
                torch.backends.cudnn.allow_tf32 = self.convolutions
            for name, value in self.operations.items():
                # what had its value from the level above inherits it again
                _find_operation(name).fp32_precision = INHERITED
                if _get_precision(name) != value:
                    _find_operation(name).fp32_precision = value


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    """Inside, torch does not warn that its older switches are old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_older(read: Callable[[], Value]) -> Value | None:
    """The value of an older switch; None where the newer ones say otherwise, and torch refuses."""
    try:
        return read()
    except RuntimeError:
        return None


def _find_operation(name: str) -> Any:
    library, operation = name.split(".")
    return getattr(getattr(torch.backends, library), operation, None)


def _get_precision(name: str) -> str | None:
    """The precision of an operation as it is now; None where this torch has no such switch."""
    value = getattr(_find_operation(name), "fp32_precision", None)
    return value if isinstance(value, str) else None
