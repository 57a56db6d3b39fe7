"""What surrounds an evaluation: the network and all global state left as found, and batches that fit into memory."""

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

Result = TypeVar("Result")


@contextmanager
def judging(module: nn.Module) -> Iterator[Net]:
    """The network in eval mode with frozen parameters, in full float32; it and all global state are left as found."""
    net = Net(module)
    trace = sys.gettrace()
    try:
        with untouched(), _full_float32(), net.attack_mode(), net.buffers_restored():
            yield net
    finally:
        sys.settrace(trace)


@contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32; and no search for the fastest convolution: batches shrink in an attack, each size would start one."""
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(
            enabled=cudnn.enabled, deterministic=cudnn.deterministic, allow_tf32=False
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def halving(run: Callable[[int], Result], batch_size: int) -> Result:
    """``run(batch_size)``, again from its start with half the batch whenever the device's memory does not suffice."""
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
        batch_size //= (
            2  # out here the error, and with it the tensors of the failed attempt, is gone
        )
