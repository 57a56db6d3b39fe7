"""Which images come when, which stand for all, and which are held out of training."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis.api.randomness import generator
from abatis.data.info import Split
from abatis.errors import UsageError

HELD_OUT_AT_MOST = 1000


def epoch_batches(
    n: int,
    batch_size: int,
    seed: int,
    epoch: int,
    order: str = "shuffled",
    labels: Tensor | None = None,
    updates: int | None = None,
    rest: bool = False,
) -> list[Tensor]:
    """The batches of one epoch: n positions below n, given by (seed, epoch) and labels alone.

    The last, smaller batch of a pass is dropped where a full one exists.

    Args:
        n: number of images.
        batch_size: images a batch.
        seed: seed of the run.
        epoch: from 0.
        order: "shuffled": every position once. "fixed": 0..n-1 in every epoch. "balanced": every
            class equally often, up to one; those of a class take turns.
        labels: (n,) int64; needed by "balanced".
        updates: number of batches, of as many passes as that needs; those of one if not given.
        rest: keep the last, smaller batch of a pass.

    Returns:
        Positions, (B,) int64 each.
    """
    draw = generator(seed, "order", epoch)
    batches = _draw_pass(n, batch_size, draw, order, labels, rest)
    while updates is not None and len(batches) < updates:
        batches += _draw_pass(n, batch_size, draw, order, labels, rest)
    return batches[:updates]


def _draw_pass(
    n: int,
    batch_size: int,
    draw: torch.Generator,
    order: str,
    labels: Tensor | None,
    rest: bool,
) -> list[Tensor]:
    """The batches of one pass over the positions."""
    if order == "fixed":
        positions = torch.arange(n)
    elif order == "balanced":
        assert labels is not None
        positions = _draw_balanced(labels, draw)
    else:
        positions = torch.randperm(n, generator=draw)
    batches = list(torch.split(positions, batch_size))
    smaller = len(batches) > 1 and len(batches[-1]) < batch_size
    return batches[:-1] if smaller and not rest else batches


def _draw_balanced(labels: Tensor, draw: torch.Generator) -> Tensor:
    """As many positions as labels, (n,) int64, shuffled: every class equally often, up to one.

    An image comes twice only after all others of its class have come.
    """
    _, places, sizes = labels.unique(return_inverse=True, return_counts=True)
    n, classes = len(labels), len(sizes)
    shares = torch.full((classes,), n // classes)
    shares[torch.randperm(classes, generator=draw)[: n % classes]] += 1
    drawn = []
    for place, (share, size) in enumerate(zip(shares.tolist(), sizes.tolist(), strict=True)):
        own = (places == place).nonzero().squeeze(1)
        rounds = -(-share // size)
        turns = [own[torch.randperm(size, generator=draw)] for _ in range(rounds)]
        drawn.append(torch.cat([*turns, own[:0]])[:share])
    positions = torch.cat(drawn)
    return positions[torch.randperm(n, generator=draw)]


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
    return _draw_by_class(labels, count, order, least=1)


def _draw_by_class(
    labels: Tensor, count: int, order: Tensor, least: int = 0, spared: int = 0
) -> Tensor:
    """Positions of ``count`` images, ascending, with the same share of every class.

    Args:
        labels: (n,) int64.
        count: how many, fewer than n.
        order: (n,) int64, all positions shuffled; the first of a class are taken.
        least: how many to take of every class at least, where ``count`` allows it.
        spared: how many to leave of every class, where ``count`` allows it.
    """
    _, places, sizes = labels.cpu().unique(return_inverse=True, return_counts=True)
    most = (sizes - spared).clamp(min=0)
    most = most if int(most.sum()) >= count else sizes
    shares = _share_out(sizes, count, places[order], least, most)
    by_class = order[places[order].argsort(stable=True)]  # shuffled within each class
    starts = sizes.cumsum(0) - sizes
    chosen = [
        by_class[start : start + share]
        for start, share in zip(starts.tolist(), shares.tolist(), strict=True)
    ]
    return torch.cat(chosen).sort().values


def _share_out(sizes: Tensor, count: int, shuffled: Tensor, least: int, most: Tensor) -> Tensor:
    """How many images of each class to choose, (K,) int64: the largest remainders are rounded up.

    Args:
        sizes: (K,) int64, the images of each class.
        count: how many images to choose, at most all.
        shuffled: (n,) int64, classes in random order; they settle equal remainders.
        least: how many to choose of every class at least, where ``count`` allows it.
        most: (K,) int64, how many to choose of each class at most.
    """
    quotas = sizes.double() * count / int(sizes.sum())
    shares = quotas.floor().long().minimum(most)
    least = least if count >= least * len(sizes) else 0
    shares.clamp_(min=least)
    first_seen = torch.full_like(sizes, len(shuffled))
    first_seen.scatter_reduce_(0, shuffled, torch.arange(len(shuffled)), "amin")
    tie = first_seen / (1e6 * len(shuffled))  # quotas of equal remainders differ by rounding only
    while (missing := count - int(shares.sum())) != 0:
        gap = quotas - shares - tie
        if missing > 0:
            shares[gap.masked_fill(shares >= most, -torch.inf).argmax()] += 1
        else:
            shares[gap.masked_fill(shares <= least, torch.inf).argmin()] -= 1
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


def choose_some(split: Split, count: int | None) -> Split:
    """Some images of a split, of all classes, the same ones each time; all where it has no more."""
    if count is None or count >= len(split):
        return split
    return split.subset(choose_stratified(split.labels, count))


def hold_out(split: Split, asked: float | None = None) -> tuple[Split, Split | None]:
    """A training split as (train, val): the held-out images have the same share of every class.

    The choice depends on the labels and the number alone, so that all runs on the same data hold
    out the same images, whatever their seed. No class loses its last training image as long as
    others have some to spare.

    Args:
        split: all training images.
        asked: how many to hold out, or which share below 1, at least one; None for a tenth and at
            most 1000.

    Returns:
        The two splits; val is None where no image is held out.

    Raises:
        UsageError: no image would be left to train on.
    """
    n = len(split)
    if asked is None:
        size = min(HELD_OUT_AT_MOST, n // 10)
    elif 0 < asked < 1:
        size = max(1, round(asked * n))
    else:
        size = int(asked)
    if size == 0:
        return split, None
    if size >= n:
        raise UsageError(
            f"--validation {size}: of {n:,} training images none is left to train on",
            fix="hold out fewer",
        )
    chosen = _draw_held_out(split.labels, size)
    rest = torch.ones(n, dtype=torch.bool)
    rest[chosen] = False
    return split.subset(rest.nonzero().squeeze(1)), split.subset(chosen)


def _draw_held_out(labels: Tensor, count: int) -> Tensor:
    """Positions of the held-out images, (count,) int64, ascending."""
    order = torch.randperm(len(labels), generator=generator(0, "held-out", len(labels)))
    return _draw_by_class(labels, count, order, spared=1)
