"""The order of an epoch and the held-out images."""

from __future__ import annotations

import pytest
import torch

from abatis.data import batches_per_epoch, epoch_batches
from abatis.data.arrays import ArraySplit
from abatis.data.order import choose_stratified, hold_out
from abatis.errors import UsageError


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


@pytest.mark.parametrize(
    ("asked", "held_out"),
    [(0, 0), (1, 1), (25, 25), (0.1, 20), (0.124, 25), (0.001, 1), (199, 199)],
)
def test_a_number_or_a_share_is_held_out_where_asked(asked: float, held_out: int) -> None:
    train, val = hold_out(split_of(200), asked)
    assert len(train) == 200 - held_out
    assert (0 if val is None else len(val)) == held_out


def test_an_image_must_be_left_to_train_on() -> None:
    with pytest.raises(UsageError, match="of 200 training images none is left") as caught:
        hold_out(split_of(200), 200)
    assert len(str(caught.value).splitlines()) <= 4


@pytest.mark.parametrize(
    ("sizes", "asked", "chosen"),
    [
        ([100, 60, 40], 20, [10, 6, 4]),
        ([55, 35, 10], 10, [5, 4, 1]),  # quotas 5.5, 3.5 and 1: one of the halves is rounded up
        ([94, 3, 3], 10, [10, 0, 0]),  # 9.4, .3 and .3: the last image goes to the large class
        ([99, 1], 99, [98, 1]),  # each class cannot keep an image
        ([1, 1, 1], 2, [1, 1, 0]),
    ],
)
def test_the_held_out_images_have_the_share_of_their_class(
    sizes: list[int], asked: int, chosen: list[int]
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    split = ArraySplit(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, "none")
    train, val = hold_out(split, asked)
    assert val is not None
    counts = torch.bincount(val.labels, minlength=len(sizes))
    assert sorted(counts.tolist(), reverse=True) == sorted(chosen, reverse=True)
    if asked < len(labels) - len(sizes):
        assert (torch.bincount(train.labels, minlength=len(sizes)) > 0).all()


def test_a_fixed_order_is_the_same_in_every_epoch_and_in_the_order_of_the_data() -> None:
    for epoch in (0, 3):
        batches = epoch_batches(10, 4, seed=epoch, epoch=epoch, order="fixed")
        assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]


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
