"""F3, F4, F5, F16: checkpoints that are damaged, gone, or of another run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from abatis.errors import CheckpointError, UsageError
from abatis.runs import runner
from abatis.train import resume
from abatis.train.checkpoint import MANIFEST
from tests.faults import checkpoints, flip, in_child, killed, train
from tests.helpers import final_bytes, plugin

TORCH = resume.importlib.metadata.version("torch")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed before step 7, with the checkpoints of steps 3, 4 and 6."""
    out = tmp_path_factory.mktemp("stopped")
    killed(out, 7)
    return out


@pytest.fixture
def out(stopped, tmp_path):
    """A copy of it."""
    shutil.copytree(stopped / "r", tmp_path / "r")
    return tmp_path


def told(folder):
    return "; ".join(json.loads((folder / "environment.json").read_text())["resumed"])


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt", MANIFEST])
def test_f3_one_flipped_bit_is_seen_and_the_checkpoint_before_is_taken(out, whole, capsys, file):
    flip(checkpoints(out)[-1] / file)
    folder = train(out, resume=True, quiet=False)
    assert final_bytes(folder) == whole
    for text in (capsys.readouterr().out, told(folder), (folder / "report.html").read_text()):
        assert "step-00000006" in text
    assert [path.name for path in checkpoints(out) if path.suffix] == ["step-00000006.rejected"]


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete", "nonsense"])
def test_f4_a_damaged_manifest_is_no_manifest(out, whole, damage):
    manifest = checkpoints(out)[-1] / MANIFEST
    content = manifest.read_bytes()
    manifest.unlink()
    if damage != "delete":
        manifest.write_bytes(
            {"truncate": content[:-40], "empty": b"", "nonsense": b"[" * 100_000}[damage]
        )
    folder = train(out, resume=True)
    assert final_bytes(folder) == whole
    assert "no readable manifest" in told(folder)


def test_f5_without_a_valid_checkpoint_nothing_is_begun_anew_in_silence(out, whole):
    for path in checkpoints(out):
        flip(path / "weights.safetensors")
    with pytest.raises(CheckpointError) as caught:
        train(out, resume=True)
    assert caught.value.exit_code == 3
    assert all(path.name in str(caught.value) for path in checkpoints(out))
    assert "--restart" in str(caught.value)
    folder = train(out, restart=True)
    assert final_bytes(folder) == whole
    assert told(folder).startswith("restarted from step 0; checkpoint rejected: step-00000006")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_f5_restart_goes_on_where_it_can(out, whole):
    folder = train(out, restart=True)
    assert final_bytes(folder) == whole
    assert told(folder) == "resumed after step 6"


def of_other_version(monkeypatch, library):
    version = resume.importlib.metadata.version
    monkeypatch.setattr(
        resume.importlib.metadata,
        "version",
        lambda name: "9.9" if name == library else version(name),
    )


@pytest.mark.parametrize(
    ("changes", "name", "difference"),
    [
        ({"batch_size": 16}, "batch_size", "batch_size was 32, now 16"),
        ({"optim": {"name": "adamw", "lr": 0.002}}, "optim.lr", "optim.lr was 0.001, now 0.002"),
        ({"epochs": 1}, "epochs", "epochs was 2, now 1"),
        ("torch", "torch", f"torch was {TORCH}, now 9.9"),
        ("world_size", "world-size", "world_size was 1, now 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_f16_what_differs_is_refused_field_by_field_unless_it_is_allowed(
    out, monkeypatch, changes, name, difference
):
    if changes == "torch":
        of_other_version(monkeypatch, "torch")
    elif changes == "world_size":
        monkeypatch.setattr(resume, "distributed", SimpleNamespace(world_size=lambda: 2))
    changes = changes if isinstance(changes, dict) else {}
    with pytest.raises(UsageError) as caught:
        train(out, resume=True, **changes)
    assert f"another run: {difference}\n" in str(caught.value)
    assert f"--allow-mismatch {name.replace('-', '_')}, " in str(caught.value)
    if name in ("torch", "world-size", "optim.lr"):
        folder = train(out, resume=True, allow_mismatch=[name], **changes)
        assert told(folder) == f"resumed after step 6; not bit-exact: {difference}"
        assert difference in (folder / "report.html").read_text()


def test_f16_a_plugin_of_another_version_is_refused(tmp_path, install, monkeypatch):
    from abatis.config import discovery

    install(plugin("plain", regularizer=lambda run: None))
    killed(tmp_path, 5, plugin=["plain"])
    newer = {
        **discovery.list_installed(),
        "plain": replace(discovery.list_installed()["plain"], version="2.0"),
    }
    monkeypatch.setattr(discovery, "list_installed", lambda: newer)
    discovery._load_installed.cache_clear()
    with pytest.raises(UsageError, match=r"plain was 1\.0, now 2\.0"):
        train(tmp_path, plugin=["plain"], resume=True)


def test_f16_several_differences_are_named_together(out):
    with pytest.raises(UsageError, match=r"augment was crop-flip, now none; seed was 0, now 3"):
        train(out, resume=True, augment="none", seed=3)


def test_f16_what_changes_no_step_is_free_and_what_rounds_is_marked(
    out, whole, tmp_path, monkeypatch
):
    (out / "r").rename(tmp_path / "other")
    folder = train(
        tmp_path, resume=True, name="other", data_dir="elsewhere", workers=1, checkpoint_every=2
    )
    assert final_bytes(folder) == whole
    assert told(folder) == "resumed after step 6"


def test_f16_more_threads_are_marked(out, monkeypatch):
    monkeypatch.setattr(resume.torch, "get_num_threads", lambda: 64)
    assert "not bit-exact: threads was 1, now 64" in told(train(out, resume=True))


def test_the_best_checkpoint_outlives_the_last_three(tmp_path):
    """Nothing gets better than the first epoch."""

    def work():
        falling = iter([0.9, *[0.1] * 5])
        runner._validate = lambda *_: (next(falling),) * 2
        train(tmp_path, epochs=6, ema=0, checkpoint_every=None)

    assert in_child(work) == 0
    assert [path.name for path in checkpoints(tmp_path)] == [
        f"step-{step:08d}" for step in (4, 16, 20, 24)
    ]


@pytest.mark.parametrize("file", ["weights.safetensors", "weights-averaged.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_f3_the_best_weights_are_not_believed_unseen(out, file, damage):
    """They are made again from the checkpoint of their epoch."""
    path = out / "r" / file
    before = path.read_bytes()
    flip(path) if damage == "flip" else path.unlink()
    killed(out, 7, resume=True)
    assert path.read_bytes() == before


def lose_the_best(out):
    """Those of the first epoch, and the checkpoint they could be made from."""
    flip(out / "r" / "weights.safetensors")
    shutil.rmtree(out / "r" / "checkpoints" / "step-00000004")


def test_f3_where_the_best_weights_are_lost_best_epoch_selection_starts_over(out, capsys):
    lose_the_best(out)
    folder = train(out, resume=True, quiet=False)
    assert "the best weights so far are missing or damaged" in capsys.readouterr().out
    assert (folder / "weights.safetensors").read_bytes() == final_bytes(
        folder
    )  # there was one more epoch


def test_f3_the_best_weights_of_a_finished_training_are_not_judged_unseen(out, monkeypatch):
    monkeypatch.setattr(runner, "_validate", lambda *_: (0.0, 0.0))  # the first epoch is the best
    train(out, resume=True)
    lose_the_best(out)
    with pytest.raises(CheckpointError, match="the best weights are damaged"):
        train(out, resume=True, eval="quick")
