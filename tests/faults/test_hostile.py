"""F18: files and names that come from somebody who means harm, or from a broken disk."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import abatis
from abatis import RunConfig, Term
from abatis.cli import main
from abatis.cli import run as defense_run
from abatis.errors import AbatisError, CheckpointError, DataError, UsageError
from abatis.system.files import digest, write_text
from tests.data.common import opened
from tests.faults import checkpoints, killed, train
from tests.helpers import final_bytes, plugin, tiny, write_tiny

EVIL = "<script>alert(1)</script><img src=x onerror=y>"


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def bomb(tmp_path):
    path = tmp_path / "exploded"
    yield Bomb(path)
    assert not path.exists()


def spoil(folder, **contents):
    """Put other bytes into a checkpoint, and a manifest that fits them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("manifest_sha256")
    for name, content in contents.items():
        file = folder / {"state": "state.pt", "weights": "weights.safetensors"}[name]
        file.write_bytes(content)
        manifest["files"][file.name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
        }
    (folder / "manifest.json").write_text(
        json.dumps({**manifest, "manifest_sha256": digest(manifest)})
    )


@pytest.mark.parametrize("file", ["state", "weights"])
def test_f18_a_program_in_a_checkpoint_is_not_run(tmp_path, whole, bomb, file):
    """Its manifest is right: whoever can write the folder can write that, too."""
    killed(tmp_path, 7)
    spoil(checkpoints(tmp_path)[-1], **{file: pickle.dumps(bomb, protocol=2)})
    folder = train(tmp_path, resume=True)
    assert final_bytes(folder) == whole
    assert "checkpoint rejected: step-00000006" in (folder / "environment.json").read_text()


@pytest.mark.parametrize("state", [{}, {"finished": False, "epochs_ended": 0}])
def test_f18_a_checkpoint_whose_parts_do_not_fit_is_an_error(tmp_path, state):
    killed(tmp_path, 4, ema=0)
    torch.save(state, tmp_path / "state")
    spoil(checkpoints(tmp_path)[-1], state=(tmp_path / "state").read_bytes())
    with pytest.raises(CheckpointError, match="step 4 does not fit"):
        train(tmp_path, ema=0, resume=True)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/file"])
def test_f18_a_manifest_may_not_point_elsewhere(tmp_path, whole, name):
    killed(tmp_path, 7)
    newest = checkpoints(tmp_path)[-1]
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest.pop("manifest_sha256")
    manifest["files"][name] = {"sha256": "", "size": 0}
    (newest / "manifest.json").write_text(
        json.dumps({**manifest, "manifest_sha256": digest(manifest)})
    )
    folder = train(tmp_path, resume=True)
    assert f"{name} is not a file of the checkpoint" in (folder / "environment.json").read_text()


@pytest.mark.parametrize("flags", [[], ["--allow-pickle"]])
def test_f18_pickled_weights_are_refused_and_never_run(tmp_path, capsys, bomb, flags):
    (tmp_path / "w.pt").write_bytes(pickle.dumps(bomb, protocol=2))
    torch.save({"w": bomb}, tmp_path / "w.pth")
    for file in ("w.pt", "w.pth"):
        assert (
            main(
                [
                    "eval",
                    str(tmp_path / file),
                    "--backbone",
                    "cnn",
                    "--data",
                    "digits",
                    "--threat",
                    "Linf:0.1",
                    *flags,
                ]
            )
            == 2
        )
        plain = file == "w.pt"  # not even torch.save's
        told = capsys.readouterr().err
        assert ("cannot read weights" if flags or plain else "--allow-pickle") in told
        assert defense_run([*write_tiny(tiny(tmp_path)), "--init", str(tmp_path / file)]) == 2
        assert ("written by pickle" if plain else "add --allow-pickle") in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "..",
        ".",
        "/etc/x",
        "a/b",
        "a\\b",
        "a\0b",
        "-x",
        "x" * 81,
        "",
        "a b",
        ".hidden",
        "ü",
    ],
)
def test_f18_run_names_stay_in_their_folder(name):
    with pytest.raises(UsageError, match=r"not a valid run name|contains a NUL"):
        RunConfig(name=name)


UNUSABLE = [
    {"out": "a\0b"},
    {"data_dir": "a\0b"},
    {"data": "npz:a\0b"},
    {"backbone": "a\0.py:f"},
    {"init": "a\0b"},
    {"out": "\ud800"},
    {"use": {"loss": "\0"}},
]


@pytest.mark.parametrize("changes", UNUSABLE)
def test_f18_nul_bytes_and_half_characters_are_refused_everywhere(changes):
    with pytest.raises(UsageError, match="contains a NUL byte or invalid Unicode"):
        RunConfig(**changes)


def test_f18_links_out_of_the_run_folder_are_refused(tmp_path):
    killed(tmp_path, 5)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "r" / "checkpoints").rename(tmp_path / "elsewhere" / "checkpoints")
    (tmp_path / "r" / "checkpoints").symlink_to(tmp_path / "elsewhere" / "checkpoints")
    with pytest.raises(UsageError, match="contains symbolic links: checkpoints"):
        train(tmp_path, resume=True)
    (tmp_path / "r").rename(tmp_path / "elsewhere" / "r")
    (tmp_path / "r").symlink_to(tmp_path / "elsewhere" / "r")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "r").symlink_to(tmp_path / "elsewhere" / "r")
    with pytest.raises(UsageError, match="leads out of"):
        train(tmp_path / "out", resume=True)


def test_f18_markup_in_a_plugin_reaches_no_page(tmp_path, install, capsys):
    module = plugin(
        "marked",
        regularizer=lambda run: lambda ctx: {f"{EVIL}[bold]": Term(ctx.logits_adv.square().sum(1))},
    )
    install(module)
    folder = train(tmp_path, plugin=["marked"], epochs=1, quiet=False)
    page = (folder / "report.html").read_text()
    assert "<script>" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert EVIL in capsys.readouterr().out.replace("\n", "")  # a terminal shows it as it is


def pictures(root):
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            for number in range(3):
                file = root / part / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((16, 16, 3), 40 * number, dtype=np.uint8)).save(file)
    return root


def noise(file):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
        file
    )
    file.write_bytes(file.read_bytes()[:400])


BROKEN = {
    "truncated": noise,
    "text": lambda file: file.write_text("no image"),
    "empty": lambda file: file.write_bytes(b""),
    "pickle": lambda file: file.write_bytes(pickle.dumps([1])),
    "long": lambda file: Image.new("1", (50_000, 1)).save(file),
}


@pytest.mark.parametrize("name", BROKEN)
def test_f18_a_broken_image_is_named_and_left_out_only_on_request(tmp_path, name):
    root = pictures(tmp_path)
    file = root / "train" / "dog" / "1.png"
    BROKEN[name](file)
    with pytest.raises(DataError) as caught:
        list(opened(f"folder:{root}", image_size=16).train.eval_batches(2))
    assert str(file) in str(caught.value)
    assert "--skip-broken" in str(caught.value)
    data = opened(f"folder:{root}", image_size=16, skip_broken=True)
    assert len(data.train) == 5
    assert len(next(iter(data.train.eval_batches(8)))) == 5
    assert f"1 images cannot be read and are left out: {file}" in data.info.note


def test_f18_an_image_of_50000_by_50000_pixels_is_not_decoded(tmp_path):
    root = pictures(tmp_path)
    file = root / "train" / "cat" / "0.png"
    content = file.read_bytes()
    header = b"IHDR" + (50_000).to_bytes(4, "big") * 2 + content[24:29]
    file.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])
    with pytest.raises(DataError, match="DecompressionBomb"):
        opened(f"folder:{root}")
    assert len(opened(f"folder:{root}", skip_broken=True).train) == 5


def test_f18_other_files_among_images_are_counted_and_named(tmp_path):
    root = pictures(tmp_path)
    (root / "train" / "cat" / "readme.txt").write_text("")
    (root / "val" / "dog" / "evil.pkl").write_bytes(b"")
    with pytest.raises(
        DataError,
        match=r"2 files are not images \(by extension\): .*readme\.txt, .*evil\.pkl",
    ):
        opened(f"folder:{root}")
    assert len(opened(f"folder:{root}", skip_broken=True).train) == 6


def test_f18_a_folder_without_any_readable_image_is_an_error(tmp_path):
    root = pictures(tmp_path)
    for file in (root / "val").rglob("*.png"):
        file.write_text("no image")
    with pytest.raises(DataError, match="none of the images can be read"):
        opened(f"folder:{root}", image_size=16, skip_broken=True)


def test_f18_a_run_that_left_broken_images_out_is_exported(tmp_path):
    root = pictures(tmp_path)
    noise(root / "val" / "cat" / "0.png")
    folder = abatis.run(
        tiny(tmp_path, data=f"folder:{root}", image_size=16, skip_broken=True, epochs=1)
    ).folder
    assert (
        main(["export", str(folder), "--to", "torch-export", "--out", str(tmp_path / "exported")])
        == 0
    )


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_f18_labels_out_of_range_are_refused_before_training(tmp_path, label):
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 10
    y[5] = label
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(AbatisError, match="label"):
        abatis.run(tiny(tmp_path, limit=None), model=network, data=((x, y), (x, y.clamp(0, 9))))


def test_f18_an_object_array_in_an_npz_file_is_not_unpickled(tmp_path, bomb):
    arrays = {
        name: np.array([bomb], dtype=object) for name in ("x_train", "y_train", "x_test", "y_test")
    }
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match="cannot be read"):
        opened(f"npz:{tmp_path / 'd.npz'}")


def test_f18_a_file_in_the_place_of_a_partial_one_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_text("mine")
    os.symlink(tmp_path / "victim", tmp_path / "a.partial")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()
