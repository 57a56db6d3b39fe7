"""Which images come when: the order of an epoch, and the images held out of training."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis.api.randomness import generator
from abatis.data.info import Split

HELD_OUT_AT_MOST = 1000


def epoch_batches(n: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The batches of one epoch: a permutation of 0..n-1 given by (seed, epoch) alone.

    The last, smaller batch is dropped where a full one exists.

    Returns:
        Positions, (B,) int64 each.
    """
    batches = list(
        torch.split(torch.randperm(n, generator=generator(seed, "order", epoch)), batch_size)
    )
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches


def batches_per_epoch(n: int, batch_size: int) -> int:
    """How many batches :func:`epoch_batches` makes."""
    return max(1, n // batch_size)


def apply_limit(limit: int | None, train: int, test: int) -> tuple[int, int]:
    """How many of the first training and test images to use, given the numbers of all.

    That is ``limit`` training images, and the same share of the test set.
    """
    if limit is None or limit >= train:
        return train, test
    return limit, -(-test * limit // train)  # rounded up: at least one


def hold_out(split: Split) -> tuple[Split, Split | None]:
    """A training split as (train, val), with ``min(1000, n // 10)`` images held out.

    The choice depends on n alone, so that all runs on the same data hold out the same images,
    whatever their seed. val is None where there are too few images.
    """
    n = len(split)
    size = min(HELD_OUT_AT_MOST, n // 10)
    if size == 0:
        return split, None
    order = torch.randperm(n, generator=generator(0, "held-out", n))
    return split.subset(order[size:].sort().values), split.subset(order[:size].sort().values)
