"""An .npz file is read in parts, and of its images only those are kept that are used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import data_memory

from abatis.config.option_groups import ExtraConfig
from abatis.data import Data, describe, npz_file
from abatis.data.arrays import Arrays, parse_labels
from abatis.data.digest import digest_split
from abatis.data.in_memory import open_arrays
from abatis.data.sources import npz
from abatis.errors import DataError
from tests.data.common import asked, opened, random_arrays

Write = Callable[..., None]


def by_columns(path: Path, **arrays: Any) -> None:
    np.savez(path, **{name: np.asfortranarray(array) for name, array in arrays.items()})


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images of 16x16x3 pixels a block, so that 40 and 12 images leave a rest or none."""
    monkeypatch.setattr(npz_file, "TOGETHER", 3 * 16 * 16 * 3 + 1)


def whole(arrays: dict[str, Any], spec: str, **options: Any) -> Data:
    """The same data from arrays that are in memory as a whole."""
    request = asked(spec, **options)
    x = [torch.from_numpy(arrays[name]).permute(0, 3, 1, 2) for name in ("x_train", "x_test")]
    y = [parse_labels(arrays[name], len(arrays[name]), "", "") for name in ("y_train", "y_test")]
    return open_arrays(Arrays(x[0], y[0], x[1], y[1]), npz.NPZ.describe(request), request)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, by_columns])
@pytest.mark.parametrize("limit", [None, 1, 7, 20, 40, 99])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_is_as_with_arrays_in_memory(
    tmp_path: Path, write: Write, limit: int | None, channels: int
) -> None:
    arrays = random_arrays(channels=channels)
    arrays["x_test"][[2, 9]] = arrays["x_train"][[39, 0]]  # copies, also of images left out
    write(tmp_path / "a.npz", **arrays)
    spec = f"npz:{tmp_path}/a.npz"
    mine, theirs = opened(spec, limit=limit), whole(arrays, spec, limit=limit)
    assert mine.info == theirs.info
    assert "2 of 12 test images are copies of training images: image 2, image 9" in mine.info.note
    scaled = arrays["x_train"] / 255
    assert mine.info.mean == pytest.approx(scaled.mean((0, 1, 2)), abs=1e-12)
    for one, other in ((mine.train, theirs.train), (mine.test, theirs.test)):
        assert digest_split(one) == digest_split(other)
        for batch, same in zip(one.eval_batches(5), other.eval_batches(5), strict=True):
            assert batch.x.equal(same.x)
            assert batch.y.equal(same.y)
            assert batch.index.equal(same.index)
    (few,) = mine.test.subset(torch.tensor([0])).eval_batches(4)
    place = int(few.index)
    expected = arrays["x_test"][place].transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(few.x[0].numpy(), expected)
    assert int(few.y) == int(arrays["y_test"][place])


def test_only_images_that_are_used_are_kept(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **random_arrays())
    file = npz.open_npz(tmp_path / "a.npz")
    some = file.take(file.x_train, torch.tensor([0, 5, 39]), lambda *_: None)
    assert some.untyped_storage().nbytes() == 3 * 16 * 16 * 3


def test_a_plan_needs_headers_and_labels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "a.npz", **random_arrays())
    spec = f"npz:{tmp_path}/a.npz"
    measured = describe(asked(spec))
    monkeypatch.setattr(npz_file.NpzArray, "read_blocks", None)
    found = describe(asked(spec, measure=False))
    assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)
    assert found.num_classes == measured.num_classes == 4
    assert (found.channels, found.image_size, found.augment) == (3, 16, "crop-flip")


def test_additional_images_are_compared_with_all_test_images(tmp_path: Path) -> None:
    arrays = random_arrays()
    np.savez(tmp_path / "a.npz", **arrays)
    spec = f"npz:{tmp_path}/a.npz"
    judged = opened(spec, limit=10).test.index.tolist()
    left_out = next(place for place in range(12) if place not in judged)
    copied = arrays["x_test"][[left_out]]
    np.savez(tmp_path / "extra.npz", image=copied, label=np.zeros(1, np.int64))
    with pytest.raises(DataError, match="1 of 1 images are exact copies of test"):
        opened(spec, limit=10, extra=ExtraConfig(file=tmp_path / "extra.npz", fraction=0.5))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "a.npz"
    write(path, **random_arrays())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        opened(f"npz:{path}")


@pytest.mark.slow
def test_memory_follows_the_images_that_are_used(tmp_path: Path) -> None:
    """In a process of its own: 60,000 images are 184 MB, of which 100 are used, or all."""
    path = data_memory.write(tmp_path / "a.npz", 60_000)
    for limit, at_most in ((100, 12e6), (60_000, 1.1 * 60_000 * 3072 + 12e6)):
        words = ["-m", "benchmarks.data_memory", str(path), str(limit)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
        assert data_memory.parse(done.stdout)["peak_bytes"] <= at_most
