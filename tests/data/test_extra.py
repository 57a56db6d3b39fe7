"""Additional images: mapped from the file, mixed into every batch, never copies of test images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import abatis
from abatis.config.option_groups import ExtraConfig
from abatis.data import Data
from abatis.data.extra import fill_up, read_extra, sha256_of, spread
from abatis.errors import DataError, Stopped, UsageError
from tests.data.common import opened, random_arrays
from tests.helpers import final_bytes, tiny

FRACTION = 0.7


def generated(
    path: Path, count: int = 30, *, like: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """Images whose every pixel is 200 + their number modulo 50, so that they are known again."""
    shape = (like or random_arrays())["x_train"].shape[1:]
    image = np.broadcast_to(
        (200 + np.arange(count) % 50).astype(np.uint8).reshape(-1, *[1] * len(shape)),
        (count, *shape),
    )
    np.savez(path, **{"image": image, "label": np.arange(count) % 4, **changes})
    return path


def with_file(
    tmp_path: Path, file: Path, *, augment: str = "none", limit: int | None = None, **options: Any
) -> Data:
    arrays = random_arrays()
    arrays["x_train"] %= 200  # no pixel as bright as a generated one
    np.savez(tmp_path / "own.npz", **arrays)
    extra = ExtraConfig(**{"file": file, "fraction": FRACTION, **options})
    return opened(f"npz:{tmp_path / 'own.npz'}", augment=augment, limit=limit, extra=extra)


def refusal(tmp_path: Path, file: Path, **options: Any) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        with_file(tmp_path, file, **options)
    assert len(str(caught.value).splitlines()) <= 4
    return str(caught.value)


@pytest.mark.parametrize(
    ("count", "fraction", "added"), [(10, 0.7, 7), (128, 0.7, 90), (3, 0.5, 2), (64, 0.99, 63)]
)
def test_the_rows_are_as_many_as_asked_for_and_evenly_spread(
    count: int, fraction: float, added: int
) -> None:
    rows = spread(count, fraction)
    assert int(rows.sum()) == added
    for half in (rows[: count // 2], rows[count // 2 :]):
        assert abs(int(half.sum()) - added * len(half) / count) <= 1


def test_a_batch_of_one_kind_only_is_refused() -> None:
    with pytest.raises(UsageError, match="of a batch of 4 images is 4"):
        spread(4, 0.9)


def test_a_batch_has_its_share_of_additional_images_with_labels_origin_and_index(
    tmp_path: Path,
) -> None:
    data = with_file(tmp_path, generated(tmp_path / "gen.npz"))
    (batch,) = data.train.train_batches([(5, torch.arange(10))], seed=0)
    assert batch.origin is not None
    added = batch.origin == 1
    assert int(added.sum()) == 7
    numbers = batch.index[added] - 40  # behind the whole training set, held-out images included
    assert torch.equal(batch.x[added][:, 0, 0, 0].mul(255).round().long(), 200 + numbers)
    assert torch.equal(batch.y[added], numbers % 4)
    assert batch.index[~added].tolist() == data.train.index[:10][~added].tolist()
    assert torch.equal(batch.y[~added], data.train.labels[:10][~added])
    assert float(batch.x[~added].max()) < 200 / 255


def test_marked_positions_are_additional_images_and_all_others_the_data_s_own(
    tmp_path: Path,
) -> None:
    data = with_file(tmp_path, generated(tmp_path / "gen.npz"))
    (positions,) = fill_up([torch.tensor([3, 7])], 10, FRACTION)  # one fewer than the batch's share
    (batch,) = data.train.train_batches([(5, positions)], seed=0)
    assert batch.origin is not None
    own = batch.origin == 0
    assert batch.index[own].tolist() == data.train.index[[3, 7]].tolist()
    assert float(batch.x[own].max()) < 200 / 255 <= float(batch.x[~own].min())
    assert int((~own).sum()) == 8


def test_draws_are_those_of_the_global_batch_whatever_the_rows(tmp_path: Path) -> None:
    data = with_file(tmp_path, generated(tmp_path / "gen.npz"), augment="crop-flip")
    keys = [(step, torch.arange(10)) for step in range(3)]
    whole = list(data.train.train_batches(keys, seed=3))
    parts = [
        list(data.train.train_batches(keys, 3, lambda n, rows=rows: rows))
        for rows in (slice(0, 5), slice(5, 10))
    ]
    for step, batch in enumerate(whole):
        for name in ("x", "y", "index", "origin"):
            assert torch.equal(
                getattr(batch, name), torch.cat([getattr(part[step], name) for part in parts])
            )
    assert not torch.equal(whole[0].index, whole[1].index)


def test_evaluation_and_held_out_images_are_the_data_s_own(tmp_path: Path) -> None:
    data = with_file(tmp_path, generated(tmp_path / "gen.npz"))
    assert data.val is not None
    for split in (data.val, data.test, data.train, data.train.subset(torch.arange(5))):
        assert max(float(batch.x.max()) for batch in split.eval_batches(8)) <= (
            1 if split is data.test else 200 / 255
        )
        assert all(batch.origin is None for batch in split.eval_batches(8))
    digest = sha256_of(tmp_path / "gen.npz")
    note = f"70% of each training batch are images of gen.npz, sha256 {digest}"
    assert note in data.info.note


def test_the_images_are_mapped_not_read(tmp_path: Path) -> None:
    data = with_file(tmp_path, generated(tmp_path / "gen.npz"))
    extra = read_extra(tmp_path / "gen.npz", data.info)
    base = extra.images
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    with np.load(tmp_path / "gen.npz") as file:
        np.testing.assert_array_equal(extra.images, file["image"])
        np.testing.assert_array_equal(extra.labels, file["label"])


@pytest.mark.parametrize("kept_apart", ["test", "held out"])
def test_exact_copies_are_refused_or_left_out_and_counted(tmp_path: Path, kept_apart: str) -> None:
    data = with_file(tmp_path, generated(tmp_path / "gen.npz"))
    arrays = random_arrays()
    assert data.val is not None
    copy = (
        arrays["x_test"][11]
        if kept_apart == "test"
        else arrays["x_train"][int(data.val.index[0])] % 200
    )
    image = np.stack(
        [copy, *np.random.default_rng(1).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8), copy]
    )
    file = generated(tmp_path / "leak.npz", image=image, label=np.zeros(11, dtype=np.int64))
    assert "2 of 11 images are exact copies of test or held-out images" in refusal(tmp_path, file)
    # limit leaves the last test image out of this run, and it stays a test image
    limit = 39 if kept_apart == "test" else None
    if limit is not None:
        assert "2 of 11" in refusal(tmp_path, file, limit=limit)
    data = with_file(tmp_path, file, copies="drop")
    assert "2 copies of test or held-out images among them are left out" in data.info.note
    batches = list(
        data.train.train_batches([(step, torch.arange(10)) for step in range(20)], seed=0)
    )
    drawn = {int(index) - 40 for batch in batches for index in batch.index if int(index) >= 40}
    assert drawn == set(range(1, 10))


def test_what_is_refused_says_why(tmp_path: Path) -> None:
    x, y = random_arrays()["x_train"], np.arange(40) % 4
    cases = {
        "no array 'image' in the file; it holds: x, y": {"x": x, "y": y},
        "no array 'label' in the file; it holds: image": {"image": x},
        "'image' is float64 of shape (40, 16, 16, 3)": {"image": x / 255, "label": y},
        "the data need uint8 (N, 16, 16, 3)": {"image": x[:, :8], "label": y},
        "'image' is uint8 of shape (40, 16, 16)": {"image": x[..., 0], "label": y},
        "'label' is float64 of shape (40,)": {"image": x, "label": y / 1},
        "'label' has 39 labels for 40 images": {"image": x, "label": y[1:]},
        "'label' has the label 4, but": {"image": x, "label": y + 1},
        "'label' has the negative label -1": {"image": x, "label": y - 1},
        "'label' is empty": {"image": x[:0], "label": y[:0]},
        "it is in column order": {"image": np.asfortranarray(x), "label": y},
        "it holds Python objects": {"image": x, "label": y.astype(object)},
    }
    for words, arrays in cases.items():
        np.savez(tmp_path / "bad.npz", **arrays)
        assert words in refusal(tmp_path, tmp_path / "bad.npz"), words
    np.savez_compressed(tmp_path / "bad.npz", image=x, label=y)
    text = refusal(tmp_path, tmp_path / "bad.npz")
    assert "'image' is compressed" in text
    assert "numpy.savez" in text
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    assert "BadZipFile" in refusal(tmp_path, tmp_path / "bad.npz")
    assert "no such .npz file" in refusal(tmp_path, tmp_path / "none.npz")


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    file = generated(tmp_path / "gen.npz")
    file.write_bytes(file.read_bytes()[:5000])
    assert "cannot be read" in refusal(tmp_path, file)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5])
def test_a_fraction_outside_0_and_1_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        ExtraConfig(file=tmp_path / "gen.npz", fraction=fraction)


def test_data_that_are_no_bytes_in_memory_are_refused(tmp_path: Path) -> None:
    file = generated(tmp_path / "gen.npz")
    floats = (torch.rand(20, 3, 16, 16), torch.arange(20) % 4)
    options = {"extra": {"file": file}, "plugin": [], "image_size": None}
    with pytest.raises(UsageError, match="needs uint8 images in memory"):
        abatis.run(tiny(tmp_path, **options), data=(floats, floats))
    with pytest.raises(UsageError, match="a folder is read during training"):
        abatis.run(tiny(tmp_path, data=f"folder:{tmp_path}", **options))


# --- whole runs


def digits_file(path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8)
    np.savez(path, image=image, label=np.arange(64) % 10)
    return path


def test_plan_and_record_name_the_file_by_its_sha256(tmp_path: Path) -> None:
    file = digits_file(tmp_path / "gen.npz")
    folder = abatis.run(
        tiny(tmp_path, extra={"file": file}, epochs=1, eval="quick", limit=60)
    ).folder
    rows = json.loads((folder / "plan.json").read_text())
    (row,) = [row for row in rows if row["provider"] == "extra:gen.npz"]
    assert row["options"] == {
        "images": 64,
        "of a batch": "22 of 32",
        "copies": "refuse",
        "sha256": sha256_of(file),
    }
    assert sha256_of(file) in json.loads((folder / "eval.json").read_text())["note"]


def test_a_resumed_run_ends_with_the_same_bytes_and_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = digits_file(tmp_path / "gen.npz")
    whole = abatis.run(tiny(tmp_path, extra={"file": file}, name="whole")).folder
    interrupted = tiny(tmp_path, extra={"file": file}, name="part", checkpoint_every=3)
    calls = iter(range(99))
    monkeypatch.setattr("abatis.system.distributed.any_says", lambda flag: next(calls) == 4)
    with pytest.raises(Stopped):
        abatis.run(interrupted)
    monkeypatch.undo()
    moved = file.rename(tmp_path / "moved.npz")
    resumed = interrupted.model_copy(update={"extra": ExtraConfig(file=moved), "resume": True})
    assert final_bytes(abatis.run(resumed).folder) == final_bytes(whole)
    other = np.random.default_rng(1).integers(0, 256, (64, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "other.npz", image=other, label=np.arange(64) % 10)
    longer = {"extra": ExtraConfig(file=tmp_path / "other.npz"), "resume": True, "epochs": 3}
    with pytest.raises(UsageError, match=r"extra\.file was"):
        abatis.run(interrupted.model_copy(update=longer))


@pytest.mark.parametrize("copies", ["refuse", "drop"])
def test_where_all_are_copies_leaving_them_out_is_not_proposed(tmp_path: Path, copies: str) -> None:
    image = random_arrays()["x_test"][:3]
    file = generated(tmp_path / "leak.npz", image=image, label=np.zeros(3, dtype=np.int64))
    assert "fix:   give other images: without the copies no image is left" in refusal(
        tmp_path, file, copies=copies
    )
