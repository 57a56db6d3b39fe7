"""npz:PATH, and the lines a user reads where it is wrong."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from abatis.data import DataInfo, describe
from abatis.data.statistics import measure_statistics
from abatis.errors import DataError, UsageError
from tests.data.common import asked, opened, random_arrays, reference


def save(path: Path, **changes: Any) -> str:
    """A small npz file; a change of None leaves the array out. Returns the spec."""
    arrays = {**random_arrays(), **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return f"npz:{path}"


def facts(spec: str, **options: Any) -> DataInfo:
    return describe(asked(spec, **options))


def test_images_labels_and_facts_are_those_of_the_file(tmp_path: Path) -> None:
    arrays = random_arrays()
    spec = save(tmp_path / "a.npz")
    data = opened(spec)
    (batch,) = data.test.eval_batches(100)
    np.testing.assert_array_equal(
        batch.x.numpy(), arrays["x_test"].transpose(0, 3, 1, 2) / np.float32(255)
    )
    assert batch.y.tolist() == arrays["y_test"].tolist()
    scaled = arrays["x_train"] / 255
    assert data.info.mean == pytest.approx(scaled.mean((0, 1, 2)), abs=1e-12)
    assert data.info.std == pytest.approx(scaled.std((0, 1, 2)), abs=1e-12)
    assert (data.info.name, data.info.num_classes, data.info.channels, data.info.image_size) == (
        spec,
        4,
        3,
        16,
    )
    assert data.info.augment == "crop-flip"
    assert data.info == facts(spec)


def test_the_statistics_of_four_pixels_are_those_by_hand() -> None:
    x = torch.tensor([0, 0, 255, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    assert measure_statistics(x) == ((0.5,), (0.5,))
    assert measure_statistics(x.float() / 255) == ((0.5,), (0.5,))
    constant = torch.full((2, 1, 2, 2), 51, dtype=torch.uint8)
    mean, std = measure_statistics(constant)
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)  # not 0, by which nothing can be divided


@pytest.mark.parametrize("shape", ["NHW", "NHWC"])
def test_grey_images_have_one_channel_and_are_not_augmented(tmp_path: Path, shape: str) -> None:
    grey = random_arrays(channels=1)
    images = {
        name: grey[name][..., 0] if shape == "NHW" else grey[name] for name in ("x_train", "x_test")
    }
    data = opened(save(tmp_path / "grey.npz", **images))
    assert (data.info.channels, data.info.augment) == (1, "none")
    (batch,) = data.test.eval_batches(100)
    np.testing.assert_array_equal(batch.x.numpy()[:, 0], grey["x_test"][..., 0] / np.float32(255))


def test_num_classes_counts_both_sets_whatever_the_limit(tmp_path: Path) -> None:
    spec = save(tmp_path / "a.npz", y_test=np.full(12, 9, dtype=np.uint8))
    assert opened(spec).info.num_classes == 10
    assert opened(spec, limit=2).info == opened(spec).info


@pytest.mark.parametrize(
    ("limit", "train", "val", "test"),
    [(None, 36, 4, 12), (20, 18, 2, 6), (5, 5, 0, 2), (1, 1, 0, 1), (999, 36, 4, 12)],
)
def test_limit_takes_images_of_all_classes_before_some_are_held_out(
    tmp_path: Path, limit: int | None, train: int, val: int, test: int
) -> None:
    data = opened(save(tmp_path / "a.npz"), limit=limit)
    held_out = [] if data.val is None else data.val.index.tolist()
    assert (len(data.train), len(held_out), len(data.test)) == (train, val, test)
    assert sorted(data.train.index.tolist() + held_out) == list(range(train + val))
    labels = np.arange(12) % 3
    assert data.test.labels.tolist() == labels[data.test.index.numpy()].tolist()
    assert data.test.index.tolist() == sorted(set(data.test.index.tolist()))
    if test >= 3:
        assert torch.bincount(data.test.labels).tolist() == [test // 3] * 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, ["no array y_test", "it holds: x_train, y_train, x_test"]),
        (
            {"x_train": np.zeros((40, 16, 16, 3), np.float32)},
            ["x_train is float32", "images must be uint8, NHWC"],
        ),
        ({"x_test": np.zeros((12, 16, 8, 3), np.uint8)}, ["(12, 16, 8, 3)", "square"]),
        ({"x_train": np.zeros((40, 3, 16, 16), np.uint8)}, ["(40, 3, 16, 16)", "NHWC"]),
        ({"x_test": np.zeros((12, 8, 8, 3), np.uint8)}, ["(3, 16, 16)", "(3, 8, 8)"]),
        ({"y_train": np.zeros(39, int)}, ["y_train has 39 labels for 40 images"]),
        ({"y_train": np.arange(40) - 1}, ["negative label -1"]),
        ({"y_train": np.zeros(40, np.float32)}, ["y_train is float32", "integers"]),
        ({"y_train": np.array(["cat"] * 40)}, ["y_train", "integers"]),
        ({"y_train": np.zeros((40, 1), int)}, ["(40, 1)", "(N,)"]),
        (
            {"x_test": np.zeros((0, 16, 16, 3), np.uint8), "y_test": np.zeros(0, int)},
            ["y_test is empty"],
        ),
        ({"x_train": np.array([{}, {}], dtype=object)}, ["cannot be read", "allow_pickle"]),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_three_lines(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    path = tmp_path / "wrong.npz"
    with pytest.raises(DataError) as caught:
        opened(save(path, **changes))
    for word in [*words, str(path)]:
        assert word in str(caught.value)
    assert str(caught.value).count("\n") == 2


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut off"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as caught:
        opened(f"npz:{path}")
    assert str(path) in str(caught.value)


def test_a_damaged_member_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "damaged.npz"
    save(path)
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("x_train.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        opened(f"npz:{path}")


def test_big_endian_labels_are_labels(tmp_path: Path) -> None:
    data = opened(save(tmp_path / "a.npz", y_test=(np.arange(12) % 3).astype(">i4")))
    assert data.test.labels.tolist() == [0, 1, 2] * 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such \.npz file") as caught:
        opened(f"npz:{tmp_path}/none.npz")
    assert "none.npz" in str(caught.value)
    assert "x_train, y_train, x_test, y_test" in str(caught.value)


def test_image_size_and_augment_are_checked(tmp_path: Path) -> None:
    spec = save(tmp_path / "a.npz")
    assert facts(spec, image_size=16).image_size == 16
    with pytest.raises(UsageError, match="image size 32"):
        facts(spec, image_size=32)
    assert facts(spec, augment="crop").augment == "crop"
    with pytest.raises(UsageError, match="did you mean 'crop-flip'"):
        facts(spec, augment="crop-flop")


def test_the_first_images_of_cifar10() -> None:
    path = reference("cifar10_small.npz")
    data = opened(f"npz:{path}")
    with np.load(path) as file:
        x_train, y_train = file["x_train"], file["y_train"]
    assert (len(data.train), len(data.test)) == (3600, 1000)
    assert data.val is not None
    assert len(data.val) == 400
    assert (data.info.num_classes, data.info.channels, data.info.image_size) == (10, 3, 32)
    assert data.info.mean == pytest.approx((x_train / 255).mean((0, 1, 2)), abs=1e-9)
    assert data.info.std == pytest.approx((x_train / 255).std((0, 1, 2)), abs=1e-9)
    assert data.train.labels.tolist() == y_train[data.train.index.numpy()].tolist()
    batch = next(data.val.eval_batches(50))
    expected = x_train[data.val.index[:50].numpy()].transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(batch.x.numpy(), expected)


def test_a_label_that_cannot_be_a_class_is_named(tmp_path: Path) -> None:
    for dtype in (np.int64, np.uint64):
        labels = np.arange(40, dtype=dtype)
        labels[7] = 2**40
        with pytest.raises(DataError, match="y_train has the label 1099511627776") as caught:
            opened(save(tmp_path / "a.npz", y_train=labels))
        assert str(caught.value).count("\n") <= 3


def test_a_limit_on_arrays_sorted_by_class_keeps_every_class(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(4), 10)
    data = opened(
        save(tmp_path / "a.npz", y_train=labels, y_test=np.repeat(np.arange(3), 4)), limit=8
    )
    assert torch.bincount(data.train.labels).tolist() == [2, 2, 2, 2]
    assert len(data.test.labels.unique()) == len(data.test) == 3
