"""The order of an epoch and the held-out images."""

from __future__ import annotations

import pytest
import torch

from abatis.data import batches_per_epoch, epoch_batches
from abatis.data.arrays import ArraySplit
from abatis.data.order import choose_stratified, hold_out


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(15, 8, [8]), (5, 8, [5]), (16, 8, [8, 8]), (17, 8, [8, 8]), (1, 1, [1])],
)
def test_the_last_batch_is_dropped_only_where_a_full_one_exists(
    n: int, batch_size: int, sizes: list[int]
) -> None:
    assert [len(batch) for batch in epoch_batches(n, batch_size, 0, 0)] == sizes
    assert batches_per_epoch(n, batch_size) == len(sizes)


def test_an_epoch_is_a_permutation() -> None:
    positions = torch.cat(epoch_batches(40, 8, seed=3, epoch=2))
    assert sorted(positions.tolist()) == list(range(40))
    assert positions.tolist() != list(range(40))


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    first = torch.cat(epoch_batches(64, 8, seed=1, epoch=5))
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert torch.equal(first, torch.cat(epoch_batches(64, 8, seed=1, epoch=5)))
    assert torch.equal(
        first, torch.cat(epoch_batches(64, 16, seed=1, epoch=5))
    )  # the batch size only cuts it
    assert torch.equal(state, torch.get_rng_state())
    for seed, epoch in ((2, 5), (1, 6)):
        assert not torch.equal(first, torch.cat(epoch_batches(64, 8, seed=seed, epoch=epoch)))


def split_of(n: int) -> ArraySplit:
    return ArraySplit(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.arange(n) % 7, "none")


@pytest.mark.parametrize(
    ("n", "held_out"), [(9, 0), (10, 1), (437, 43), (10_000, 1000), (30_000, 1000)]
)
def test_a_tenth_is_held_out_and_at_most_a_thousand(n: int, held_out: int) -> None:
    train, val = hold_out(split_of(n))
    if held_out == 0:
        assert val is None
        assert len(train) == n
        return
    assert val is not None
    assert len(val) == held_out
    assert sorted(torch.cat([train.index, val.index]).tolist()) == list(
        range(n)
    )  # disjoint, and nothing is lost
    assert torch.equal(val.labels, val.index % 7)
    assert torch.equal(train.labels, train.index % 7)


def test_the_same_images_are_held_out_in_every_run_and_not_the_first_ones() -> None:
    torch.manual_seed(1)
    _, first = hold_out(split_of(200))
    torch.manual_seed(2)
    _, second = hold_out(split_of(200))
    assert first is not None
    assert second is not None
    assert torch.equal(first.index, second.index)
    assert first.index.tolist() != list(range(20))


def test_a_subset_of_a_subset_keeps_the_original_positions() -> None:
    split = split_of(50).subset(torch.tensor([40, 3, 17])).subset(torch.tensor([2, 0]))
    assert split.index.tolist() == [17, 40]
    assert split.labels.tolist() == [17 % 7, 40 % 7]


@pytest.mark.parametrize(
    ("sizes", "count", "chosen"),
    [
        ([8, 8, 8], 6, [2, 2, 2]),
        ([60, 30, 10], 10, [6, 3, 1]),
        ([97, 2, 1], 10, [8, 1, 1]),  # at least one of every class
        ([2, 4, 6], 12, [2, 4, 6]),
        ([2, 4, 6], 99, [2, 4, 6]),
    ],
)
def test_some_images_stand_for_all_with_the_share_of_their_class(
    sizes: list[int], count: int, chosen: list[int]
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    for order in (torch.arange(len(labels)), torch.arange(len(labels)).flip(0)):
        found = choose_stratified(labels[order], count)
        assert torch.bincount(labels[order][found]).tolist() == chosen
        assert found.tolist() == sorted(set(found.tolist()))


def test_fewer_images_than_classes_are_of_different_classes_and_not_the_first() -> None:
    labels = torch.arange(40).repeat_interleave(5)
    found = labels[choose_stratified(labels, 12)]
    assert len(found.unique()) == 12
    assert found.tolist() != list(range(12))


def test_the_choice_depends_on_the_labels_alone() -> None:
    labels = torch.arange(100) % 10
    first = choose_stratified(labels, 20)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(choose_stratified(labels, 20), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.tolist() != list(range(20))
    assert choose_stratified(labels, 100).tolist() == list(range(100))
