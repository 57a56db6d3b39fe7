"""Isolation of an evaluation: it leaves the network and all global state unchanged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from abatis.api.randomness import untouched
from abatis.errors import OutOfMemoryError
from abatis.nets.net import Net

T = TypeVar("T")


@contextmanager
def isolate(module: nn.Module) -> Iterator[Net]:
    """Yield the network in eval mode, with frozen parameters, in full float32.

    At the end the module, the global random generators, the precision settings and Python's trace
    function are as they were before.
    """
    net = Net(module)
    trace = sys.gettrace()
    try:
        with untouched(), _full_float32(), net.attack_mode(), net.restore_buffers():
            yield net
    finally:
        sys.settrace(trace)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Turn off TF32, and cuDNN's search for the fastest convolution.

    Batches shrink during an attack, and every new size would start a search.
    """
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(
            enabled=cudnn.enabled, deterministic=cudnn.deterministic, allow_tf32=False
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def halve_until_fits(run: Callable[[int], T], batch_size: int) -> T:
    """Call ``run(batch_size)``, and again with half the batch while the device is out of memory.

    Raises:
        OutOfMemoryError: a batch of one image does not fit either.
    """
    while True:
        try:
            return run(batch_size)
        except torch.OutOfMemoryError as error:
            if batch_size == 1:
                raise OutOfMemoryError(
                    "the device has no memory left for a single image",
                    where="evaluation",
                    fix="free the device's memory, or use another device",
                ) from error
        # Here the error is gone, and with it the tensors of the failed attempt.
        batch_size //= 2
