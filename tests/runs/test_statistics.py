"""``--statistics`` in whole runs: the plan, resuming, averaged weights, and what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import abatis
from abatis import UsageError
from tests.helpers import tiny

LOGGED = {"attack": ["steps", "adv"], "loss": ["adv"], "after": ["clean"]}
TRAIN_MODE = {"steps": 2, "bn": "train"}


def test_the_plan_has_a_row_where_a_run_fixes_the_forwards(tmp_path, plan):
    abatis.run(tiny(tmp_path, dry_run=True))
    assert not [row for row in plan["rows"] if row.role == "statistics"]
    abatis.run(tiny(tmp_path, dry_run=True, statistics=LOGGED, attack=TRAIN_MODE))
    (row,) = [row for row in plan["rows"] if row.role == "statistics"]
    assert row.options == {"attack": ("steps", "adv"), "loss": ("adv",), "after": ("clean",)}
    assert not plan["notes"][1:]  # the first is about the data


def test_a_network_without_batch_norm_has_a_note(tmp_path, plan):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    abatis.run(tiny(tmp_path, dry_run=True, statistics={"after": ["clean"]}), model=module)
    assert plan["notes"][-1] == (
        "--statistics has no effect: Sequential has no batch norm with running statistics"
    )


def test_a_forward_that_a_plugin_needs_is_missed_before_the_run(tmp_path):
    with pytest.raises(UsageError, match="the losses need the forward 'clean' too"):
        abatis.run(tiny(tmp_path, dry_run=True, plugin=["trades"], statistics={"loss": ["adv"]}))


def test_the_forwards_are_counted_and_a_resumed_run_must_have_the_same(tmp_path):
    """4 batches an epoch; 2 steps of the attack, its result, the loss, and one for the log."""
    options = {"statistics": LOGGED, "attack": TRAIN_MODE, "epochs": 1, "name": "x"}
    folder = abatis.run(tiny(tmp_path, **options)).folder
    state = load_file(folder / "weights-last.safetensors")
    counts = [value.item() for name, value in state.items() if "num_batches" in name]
    assert set(counts) == {4 * 5}
    with pytest.raises(UsageError, match=r"statistics\.after was \['clean'\], now \[\]"):
        abatis.run(tiny(tmp_path, **{**options, "epochs": 2, "resume": True, "statistics": {}}))


def test_averaged_weights_have_the_statistics_behind_the_update(tmp_path):
    folder = abatis.run(tiny(tmp_path, ema=0.9, epochs=1, statistics={"after": ["clean"]})).folder
    last = load_file(folder / "weights-last.safetensors")
    averaged = load_file(folder / "weights-averaged.safetensors")
    moved = [name for name in last if name.rpartition(".")[2] in ("running_mean", "running_var")]
    assert moved
    assert all(torch.equal(last[name], averaged[name]) for name in moved)
    assert not torch.equal(last["backbone.fc.weight"], averaged["backbone.fc.weight"])
