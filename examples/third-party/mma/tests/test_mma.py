"""The contract every plugin keeps, and margins that are known exactly."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import abatis
from abatis import Batch, Net, RunConfig
from abatis.testing import AttackConfig, PluginContract, load_plugin_state, loss_terms, plan_of

TINY = {
    "plugin": ["mma"],
    "backbone": "cnn",
    "data": "digits",
    "limit": 300,
    "batch_size": 20,
    "epochs": 2,
    "threat": "Linf:0.1",
    "attack": {"steps": 2},
    "optim": {"name": "adamw", "lr": 0.003},
    "eval": "none",
    "quiet": True,
}


class TestMma(PluginContract):
    plugin = "mma"


def line():
    """Images of one pixel x to the logits (x, 0.5)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[1].bias.copy_(torch.tensor([0.0, 0.5]))
    return Net(model)


def attacked(x, y, net, bisections=30, max_eps=0.4):
    options = {"max_eps": max_eps, "min_eps": 0.05, "bisections": bisections}
    plan = plan_of(
        "mma",
        net=net,
        num_classes=2,
        options=options,
        threat="Linf:0.1",
        attack=AttackConfig(steps=3),
    )
    x = torch.tensor(x, dtype=torch.float64).view(-1, 1, 1, 1)
    with net.attack_mode():
        return plan, plan.attacker(net, Batch(x, torch.tensor(y), torch.arange(len(x))))


def test_the_margin_of_a_line_is_known():
    """With two classes s = 0.5 - x for y = 0: x = 0.6 is 0.1 from the boundary, x = 0.8 0.3, and x
    = 0.3 is wrong.
    """
    _, found = attacked([0.6, 0.8, 0.3], [0, 0, 0], line())
    assert found.info["eps"].tolist() == pytest.approx([0.1, 0.3, 0.0], abs=1e-8)
    assert found.x.flatten().tolist() == pytest.approx([0.5, 0.5, 0.3], abs=1e-8)
    assert found.info["counts"].tolist() == [1, 1, 1]


def test_two_bisections_by_hand():
    """From the start 0.05 in [0, 0.42] towards 0.3: 0.05 is inside, so (0.05 + 0.42) / 2 = 0.235,
    inside, so 0.3275.
    """
    _, found = attacked([0.8], [0], line(), bisections=2)
    assert found.info["eps"].tolist() == pytest.approx([0.3275])


def test_an_image_beyond_the_largest_margin_is_left_alone():
    _, found = attacked([0.6, 0.9], [0, 0], line(), max_eps=0.2)
    assert found.info["counts"].tolist() == [1, 0]


def test_the_next_attack_starts_from_the_margin_before():
    net = line()
    plan, found = attacked([0.6, 0.8], [0, 0], net, bisections=1)
    ((_, margins),) = plan.trainers
    margins.eps[:2] = torch.tensor([0.2, 0.1])
    with net.attack_mode():
        batch = Batch(
            torch.tensor([0.6, 0.8], dtype=torch.float64).view(-1, 1, 1, 1),
            torch.zeros(2).long(),
            torch.arange(2),
        )
        again = plan.attacker(net, batch)
    assert found.info["eps"].tolist() == pytest.approx([(0.05 + 0.42) / 2, (0.05 + 0.42) / 2])
    assert again.info["eps"].tolist() == pytest.approx(
        [0.2 / 2, (0.1 + 0.42) / 2]
    )  # 0.2 is outside, 0.1 inside


def test_the_loss_by_hand():
    """Logits (ln 3, 0) give CE = ln(4/3), (0, 0) ln 2; the second sample is far enough and does not
    count.
    """
    clean, adv = torch.tensor([[math.log(3), 0.0]] * 2), torch.zeros(2, 2)
    y, info = torch.zeros(2).long(), {"counts": torch.tensor([1.0, 0.0])}
    terms = loss_terms("mma", logits_clean=clean, logits_adv=adv, y=y, info=info)
    assert terms["clean"].value.tolist() == pytest.approx([math.log(4 / 3)] * 2)
    assert terms["margin"].value.tolist() == pytest.approx([math.log(2), 0])
    assert (terms["clean"].weight, terms["margin"].weight) == pytest.approx((1 / 3, 2 / 3))


def test_trains_on_digits(tmp_path):
    folder = abatis.run(RunConfig(**TINY, out=tmp_path)).folder
    assert "margin" in json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def state(folder):
    """The last weights of a run and the margins in its newest checkpoint."""
    margins = load_plugin_state(folder, "mma")["eps"]
    return load_file(folder / "weights-last.safetensors"), margins


@pytest.mark.slow
def test_margins_survive_a_resume(tmp_path):
    """The second epoch starts from the margins of the first; it is run again from the checkpoint
    between them.
    """
    weights, margins = state(abatis.run(RunConfig(**TINY, name="whole", out=tmp_path)).folder)
    assert (margins > 0).sum() > 10
    cut = abatis.run(RunConfig(**TINY, name="cut", out=tmp_path)).folder
    shutil.rmtree(sorted((cut / "checkpoints").iterdir())[-1])
    again, kept = state(abatis.run(RunConfig(**TINY, name="cut", out=tmp_path, resume=True)).folder)
    assert torch.equal(kept, margins)
    assert all(torch.equal(again[name], value) for name, value in weights.items())


@pytest.mark.slow
def test_the_margins_of_two_processes_are_in_one_checkpoint(tmp_path):
    """That they are those of one process is part of the contract; here the processes are real."""
    words = [
        "--plugin",
        "mma",
        "--backbone",
        "cnn",
        "--data",
        "digits",
        "--limit",
        "300",
        "--batch-size",
        "20",
        "--epochs",
        "2",
        "--threat",
        "Linf:0.1",
        "--attack.steps",
        "2",
        "--eval",
        "none",
        "--name",
        "two",
        "--nproc",
        "2",
        "--optim.name",
        "adamw",
        "--optim.lr",
        "0.003",
        "--quiet",
    ]
    command = [sys.executable, "-m", "abatis", "run", *words, "--out", str(tmp_path)]
    subprocess.run(command, check=True)
    _, margins = state(tmp_path / "two")
    _, alone = state(abatis.run(RunConfig(**TINY, name="one", out=tmp_path)).folder)
    assert (margins > 0).sum() > 0.75 * (alone > 0).sum() > 0
