"""Which images come when, which stand for all, and which are held out of training."""

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


def choose_stratified(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """The images that stand for all: ``count`` of them, with the same share of every class.

    A function of the labels, the count and the seed alone: with the default seed every run on the
    same data chooses the same images. Every class has at least one image where ``count`` allows it.

    Args:
        labels: (n,) int64, of all images.
        count: how many to choose; all where it is n or more.
        seed: of the choice.

    Returns:
        Positions, (min(count, n),) int64, ascending.
    """
    n = len(labels)
    if count >= n:
        return torch.arange(n)
    order = torch.randperm(n, generator=generator(seed, "stratified", n))
    _, places, sizes = labels.cpu().unique(return_inverse=True, return_counts=True)
    shares = _share_out(sizes, count, places[order])
    by_class = order[places[order].argsort(stable=True)]  # shuffled within each class
    starts = sizes.cumsum(0) - sizes
    chosen = [
        by_class[start : start + share]
        for start, share in zip(starts.tolist(), shares.tolist(), strict=True)
    ]
    return torch.cat(chosen).sort().values


def _share_out(sizes: Tensor, count: int, shuffled: Tensor) -> Tensor:
    """How many images of each class to choose, (K,) int64: the largest remainders are rounded up.

    Args:
        sizes: (K,) int64, the images of each class.
        count: how many images to choose, at most all.
        shuffled: (n,) int64, classes in random order; they settle equal remainders.
    """
    quotas = sizes.double() * count / int(sizes.sum())
    shares = quotas.floor().long()
    if count >= len(sizes):
        shares.clamp_(min=1)
    first_seen = torch.full_like(sizes, len(shuffled))
    first_seen.scatter_reduce_(0, shuffled, torch.arange(len(shuffled)), "amin")
    tie = first_seen / (1e6 * len(shuffled))  # quotas of equal remainders differ by rounding only
    while (missing := count - int(shares.sum())) != 0:
        gap = quotas - shares - tie
        if missing > 0:
            shares[gap.masked_fill(shares >= sizes, -torch.inf).argmax()] += 1
        else:
            shares[gap.masked_fill(shares <= 1, torch.inf).argmin()] -= 1
    return shares


def apply_limit(limit: int | None, train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Which training and test images to use: ``limit``, and the same share of the test images.

    Args:
        limit: how many training images; None for all.
        train: (n,) int64, the labels of the training images.
        test: (m,) int64, the labels of the test images.

    Returns:
        Positions of training and of test images, int64, ascending.
    """
    if limit is None or limit >= len(train):
        return torch.arange(len(train)), torch.arange(len(test))
    tested = -(-len(test) * limit // len(train))  # rounded up: at least one
    return choose_stratified(train, limit), choose_stratified(test, tested)


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
