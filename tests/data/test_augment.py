"""Crops and flips of a batch, against a plain reference image by image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from abatis.data.arrays import ArraySplit
from abatis.data.augment import crop_flip, draw, padding, to_unit


def images(count: int, channels: int = 3, size: int = 16) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, channels, size, size), generator=source, dtype=torch.uint8)


def one_by_one(
    x: Tensor, corners: Tensor, flips: Tensor, pad: int, mode: str = "constant"
) -> np.ndarray:
    out = []
    for image, (top, left), flip in zip(x.numpy(), corners.tolist(), flips.tolist(), strict=True):
        size = image.shape[-1]
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode)
        crop = padded[:, top : top + size, left : left + size]
        out.append(crop[:, :, ::-1] if flip else crop)
    return np.stack(out)


@pytest.mark.parametrize("count", [1, 37])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_equals_the_images_one_by_one(count: int, channels: int) -> None:
    x = images(count, channels)
    corners, flips = draw(slice(0, count), 2, seed=4, step=7)
    np.testing.assert_array_equal(
        crop_flip(x, corners, flips, 2).numpy(), one_by_one(x, corners, flips, 2)
    )
    floats = to_unit(x)
    np.testing.assert_array_equal(
        crop_flip(floats, corners, flips, 2).numpy(), one_by_one(floats, corners, flips, 2)
    )


@pytest.mark.parametrize("pad", [0, 2, 15])
def test_reflection_equals_the_padded_images_one_by_one(pad: int) -> None:
    x = images(37)
    corners, flips = draw(slice(0, 37), pad, seed=4, step=7)
    expected = one_by_one(x, corners, flips, pad, "reflect")
    np.testing.assert_array_equal(crop_flip(x, corners, flips, pad, "reflect").numpy(), expected)


def test_a_split_crops_with_its_padding() -> None:
    """Images are at least 1 everywhere: only a padding of zeros brings zeros in."""
    for padding_kind, zeros in (("zeros", True), ("reflect", False)):
        split = ArraySplit(images(40), torch.zeros(40).long(), "crop", crop_padding=padding_kind)
        split = split.subset(torch.arange(30))
        (batch,) = split.train_batches([(0, torch.arange(30))], seed=0)
        assert bool((batch.x == 0).any()) is zeros


def test_the_middle_corner_is_the_image_and_the_first_one_shifts_in_zeros() -> None:
    x = images(2)
    corners = torch.tensor([[2, 2], [0, 0]])
    out = crop_flip(x, corners, torch.tensor([False, False]), 2)
    assert torch.equal(out[0], x[0])
    assert torch.equal(out[1, :, 2:, 2:], x[1, :, :-2, :-2])
    assert out[1, :, :2].count_nonzero() == 0
    assert torch.equal(crop_flip(x[:1], corners[:1], torch.tensor([True]), 2)[0], x[0].flip(2))


@pytest.mark.parametrize("cuts", [[0, 20], [0, 10, 20], [0, 6, 13, 20]])
def test_processes_augment_their_rows_of_the_batch(cuts: list[int]) -> None:
    split = ArraySplit(images(20), torch.zeros(20, dtype=torch.int64), "crop-flip")
    parts = []
    for cut in pairwise(cuts):
        (part,) = split.train_batches([(9, torch.arange(20))], 0, lambda n, cut=cut: slice(*cut))
        parts.append(part.x)
    assert torch.equal(torch.cat(parts), train_batch("crop-flip", 9))


def test_every_corner_and_both_orientations_occur() -> None:
    corners, flips = draw(slice(0, 4000), 4, seed=0, step=0)
    assert torch.unique(corners, dim=0).shape == (81, 2)
    assert 0.45 < flips.double().mean() < 0.55
    assert [padding(size) for size in (8, 28, 32, 96)] == [1, 3, 4, 12]


def train_batch(augment: str, step: int, seed: int = 0, count: int = 20) -> Tensor:
    split = ArraySplit(images(count), torch.zeros(count, dtype=torch.int64), augment)
    (batch,) = split.train_batches([(step, torch.arange(count))], seed)
    assert batch.x.dtype == torch.float32
    assert 0 <= batch.x.min() <= batch.x.max() <= 1
    return batch.x


def test_a_step_repeats_itself_and_differs_from_the_next_step_and_seed() -> None:
    first = train_batch("crop-flip", step=5)
    torch.manual_seed(3)
    assert torch.equal(first, train_batch("crop-flip", step=5))
    assert not torch.equal(first, train_batch("crop-flip", step=6))
    assert not torch.equal(first, train_batch("crop-flip", step=5, seed=1))


def test_the_samples_of_a_batch_are_augmented_apart() -> None:
    same = ArraySplit(
        images(1).expand(64, -1, -1, -1), torch.zeros(64, dtype=torch.int64), "crop-flip"
    )
    (batch,) = same.train_batches([(0, torch.arange(64))], 0)
    assert len(torch.unique(batch.x, dim=0)) > 20


def test_crop_is_crop_flip_without_the_mirror_and_none_leaves_images_alone() -> None:
    corners, flips = draw(slice(0, 20), 2, seed=0, step=9)
    mirrored = torch.where(
        flips[:, None, None, None], train_batch("crop", 9).flip(3), train_batch("crop", 9)
    )
    expected = one_by_one(images(20), corners, torch.zeros_like(flips), 2) / np.float32(255)
    np.testing.assert_array_equal(train_batch("crop", 9).numpy(), expected)
    np.testing.assert_array_equal(
        train_batch("crop-flip", 9).numpy(),
        one_by_one(images(20), corners, flips, 2) / np.float32(255),
    )
    assert not torch.equal(mirrored, train_batch("crop", 9))
    assert torch.equal(train_batch("none", 9), images(20).float() / 255)


def test_batches_are_consumed_lazily_and_carry_labels_and_original_positions() -> None:
    taken = []

    def endless() -> Iterator[tuple[int, Tensor]]:
        step = 0
        while True:
            taken.append(step)
            yield step, torch.tensor([1, 0])
            step += 1

    split = ArraySplit(images(9), torch.arange(9) * 10, "crop").subset(torch.tensor([8, 4, 2]))
    batches = split.train_batches(endless(), 0)
    first = next(batches)
    next(batches)
    assert taken == [0, 1]
    assert first.index.tolist() == [4, 8]
    assert first.y.tolist() == [40, 80]


def test_evaluation_is_in_order_complete_and_plain() -> None:
    split = ArraySplit(images(9), torch.arange(9), "crop-flip").subset(torch.arange(1, 8))
    batches = list(split.eval_batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([batch.x for batch in batches]), images(9)[1:8].float() / 255)
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(1, 8))
    assert torch.cat([batch.y for batch in batches]).tolist() == list(range(1, 8))
