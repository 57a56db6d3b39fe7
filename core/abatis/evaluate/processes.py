"""Several processes that share one evaluation (``torchrun``): each attacks its points, and all learn every verdict."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


def rank() -> int:
    """The number of this process; 0 where there is only one."""
    return dist.get_rank() if _several() else 0


def share_of(n: int) -> Tensor:
    """Which of n points this process attacks: (n,) bool. Every world-size-th, so that the work is even."""
    mine = torch.zeros(n, dtype=torch.bool)
    mine[rank() :: dist.get_world_size() if _several() else 1] = True
    return mine


def all_agree(flags: Tensor) -> Tensor:
    """Where all processes say yes: (n,) bool on the CPU."""
    if not _several():
        return flags
    counts = flags.int()
    dist.all_reduce(counts, dist.ReduceOp.MIN)
    return counts.bool()


def total(count: int) -> int:
    """The sum over all processes."""
    if not _several():
        return count
    value = torch.tensor(count)
    dist.all_reduce(value)
    return int(value)


def first_says(value: Value) -> Value:
    """What the first process has there, for all."""
    if not _several():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def joined() -> Iterator[None]:
    """Connect with the other processes where torchrun started several; verdicts travel over the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
