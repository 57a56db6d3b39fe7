"""A checkpoint exists only when every byte verifies."""

from __future__ import annotations

import hashlib

import pytest
import torch

from abatis.errors import CheckpointError
from abatis.nets.weights_file import write_weights
from abatis.train.checkpoint import load_checkpoint, save_checkpoint


def save_some(folder, steps):
    for step in steps:
        save_checkpoint(folder, step, {"w": torch.full((3,), float(step))}, {"step": step})


def test_the_newest_is_read_and_three_are_kept(tmp_path):
    save_some(tmp_path, [1, 2, 3, 10])
    loaded = load_checkpoint(tmp_path)
    assert (loaded.step, loaded.state, loaded.rejected) == (10, {"step": 10}, ())
    assert torch.equal(loaded.weights["w"], torch.full((3,), 10.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002",
        "step-00000003",
        "step-00000010",
    ]


def test_none_where_there_never_was_one(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "step-00000009.tmp").mkdir()
    assert load_checkpoint(tmp_path) is None


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_one_is_rejected_by_name_and_the_one_before_is_taken(tmp_path, file, damage):
    save_some(tmp_path, [1, 2])
    path = tmp_path / "step-00000002" / file
    if damage == "flip" and file == "manifest.json":
        path.write_text(path.read_text().replace("sha256", "sha257"))
    elif damage == "flip":
        flip(path)
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.unlink()
    loaded = load_checkpoint(tmp_path)
    assert loaded.step == 1
    assert len(loaded.rejected) == 1
    assert "step-00000002" in loaded.rejected[0]


def test_all_bad_is_an_error_and_never_a_silent_start(tmp_path):
    save_some(tmp_path, [1, 2])
    for step in (1, 2):
        flip(tmp_path / f"step-0000000{step}" / "weights.safetensors")
    with pytest.raises(CheckpointError, match="step-00000001") as caught:
        load_checkpoint(tmp_path)
    assert caught.value.exit_code == 3


def test_equal_weights_are_equal_bytes(tmp_path):
    digests = set()
    facts = {"backbone": "cnn", "num_classes": 10, "channels": 1, "image_size": 8}
    for name in ("a", "b"):
        write_weights(tmp_path / name, {"w": torch.arange(5.0), "v": torch.ones(2)}, facts)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_tensors_that_share_memory_can_be_written(tmp_path):
    tied = torch.ones(3)
    write_weights(tmp_path / "w", {"a": tied, "b": tied})
    assert (tmp_path / "w").exists()
