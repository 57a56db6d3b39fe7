"""A mistake is told before data are opened, and leaves no run folder behind."""

from __future__ import annotations

import sys

import pytest
import torch

import abatis
from abatis import Term
from abatis.errors import AbatisError, NotFiniteError, PluginConflict, UsageError
from abatis.nets.weights_file import write_weights
from abatis.runs import runner
from tests.helpers import plugin, tiny

BEFORE_DATA = {
    "a provider that does not exist": ({"use": {"loss": "nobody"}}, "no such provider"),
    "an attacker as the loss": ({"use": {"loss": "pgd"}}, "--use loss=pgd: no such provider"),
    "a plugin without that role": (
        {"plugin": ["emr"], "use": {"loss": "emr"}},
        "--use loss=emr: plugin 'emr' provides no loss",
    ),
    "a plugin that is switched off": (
        {"plugin": ["halved"], "halved": {"weight": 0}, "use": {"loss": "halved"}},
        "plugin 'halved' is switched off by its options",
    ),
    "two losses": ({"plugin": ["mart", "trades"]}, "2 plugins provide the loss: mart, trades"),
    "a tracker that is not installed": ({"track": ["wandb"]}, "wandb is not installed"),
    "one process to shard": ({"shard": "root"}, "there is only one process"),
    "a compiled step of two derivatives": (
        {"plugin": ["emr"], "compile": "step"},
        "cannot be differentiated twice, as emr needs it",
    ),
    "too small a batch": ({"batch_size": 2, "accumulate": 4}, "batch size 2 is too small"),
    "an unknown backbone": ({"backbone": "resnet8000"}, "unknown backbone 'resnet8000'"),
    "no weights to start from": ({"init": "no/such/run"}, "no file"),
}
WITH_DATA = {
    "unknown data": ({"data": "digit"}, "digit"),
    "a missing file": ({"data": "npz:no/such/file.npz"}, "file.npz"),
}


@pytest.fixture(autouse=True)
def halved(install):
    """A loss that a weight of 0 switches off."""

    class Config(abatis.PluginConfig):
        neutral = {"weight": 0.0}
        weight: float = 0.5

    def loss(ctx):
        return {"half": Term(ctx.logits_adv.logsumexp(1), 0.5)}

    install(plugin("halved", config=lambda: Config, loss=lambda run: loss))


def fails(folder, options, complaint):
    """Run and fail; returns the error."""
    with pytest.raises(AbatisError) as caught:
        abatis.run(tiny(folder, name="r", **options))
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4
    return caught.value


@pytest.mark.parametrize("name", BEFORE_DATA)
def test_what_is_wrong_without_data_is_told_before_they_are_opened(name, tmp_path, monkeypatch):
    def open_nothing(*_):
        raise AssertionError("the data were opened")

    monkeypatch.setattr(runner, "open_run_data", open_nothing)
    monkeypatch.setitem(sys.modules, "wandb", None)
    fails(tmp_path / "out", *BEFORE_DATA[name])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WITH_DATA)
def test_data_that_cannot_be_opened_leave_no_folder(name, tmp_path):
    fails(tmp_path / "out", *WITH_DATA[name])
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_leave_no_folder(tmp_path):
    weights = tmp_path / "other.safetensors"
    write_weights(weights, {"layer.weight": torch.ones(2, 3)})
    fails(tmp_path / "out", {"init": weights}, "does not fit cifar_cnn")
    assert not (tmp_path / "out").exists()


def test_a_use_that_chooses_between_two_losses_is_no_conflict(tmp_path):
    both = {"plugin": ["mart", "trades"], "limit": 40, "epochs": 1}
    with pytest.raises(PluginConflict):
        abatis.run(tiny(tmp_path, **both))
    assert abatis.run(tiny(tmp_path, use={"loss": "mart", "attacker": "pgd"}, **both))


def test_a_hook_is_asked_once_where_nothing_is_in_doubt(tmp_path, install):
    asked = []

    def loss(run):
        asked.append(run.steps_per_epoch)
        return lambda ctx: {"x": Term(ctx.logits_adv.logsumexp(1))}

    install(plugin("asked", loss=loss))
    abatis.run(tiny(tmp_path, plugin=["asked"], limit=40, epochs=1))
    assert asked == [1]


def test_only_what_the_run_made_is_removed(tmp_path):
    wrong = {"data": "npz:no/such/file.npz"}
    (tmp_path / "out").mkdir()
    fails(tmp_path / "out", wrong, "file.npz")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out" / "r").mkdir()
    fails(tmp_path / "out", wrong, "file.npz")
    assert (tmp_path / "out" / "r").is_dir()
    (tmp_path / "out" / "r" / "mine.txt").write_text("kept")
    fails(tmp_path / "out", {**wrong, "resume": True}, "file.npz")
    assert [path.name for path in (tmp_path / "out" / "r").iterdir()] == ["mine.txt"]
    with pytest.raises(UsageError, match="already exists"):
        abatis.run(tiny(tmp_path / "out", name="r"))
    assert (tmp_path / "out" / "r" / "mine.txt").read_text() == "kept"


def test_a_failure_after_a_checkpoint_removes_nothing(tmp_path, install):
    def late(ctx):
        return {"x": Term(ctx.logits_adv.logsumexp(1) * (float("nan") if ctx.step == 3 else 1))}

    install(plugin("late", loss=lambda run: late))
    with pytest.raises(NotFiniteError):
        abatis.run(tiny(tmp_path / "out", name="r", plugin=["late"], checkpoint_every=1))
    names = {path.name for path in (tmp_path / "out" / "r").iterdir()}
    assert {"run.toml", "plan.json", "checkpoints"} <= names
    assert list((tmp_path / "out" / "r" / "checkpoints").iterdir())
