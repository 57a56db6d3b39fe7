"""What surrounds every attack: restored state, re-verification, full batches in order."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.evaluate import EvaluationRequest, evaluate, judge_with_pgd, ladder
from abatis.evaluate.judge import pack_points

LINF = Threat.parse("Linf:0.05")
CPU = torch.device("cpu")


class Restless(nn.Module):
    """Changes everything that an evaluation must restore, and fails at a given forward pass."""

    def __init__(self, net: nn.Module, fail_at: int) -> None:
        super().__init__()
        self.net, self.fail_at, self.forwards = net, fail_at, 0
        self.register_buffer("counted", torch.zeros(1))
        self.register_buffer("replaced", torch.zeros(1))

    def forward(self, x):
        self.forwards += 1
        self.counted += 1
        self.replaced = self.replaced + 1
        torch.rand(1), np.random.rand(), random.random()
        sys.settrace(None)
        if self.forwards == self.fail_at:
            raise RuntimeError("broken on purpose")
        return self.net(x)


def follow(frame, event, arg):
    """A trace function that traces nothing."""


def state(net):
    """All that has to be the same before and after."""
    return {
        "modes": [module.training for module in net.modules()],
        "trainable": [parameter.requires_grad for parameter in net.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "tensors": [
            (name, id(tensor), tensor.clone())
            for name, tensor in net.state_dict(keep_vars=True).items()
        ],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "trace": sys.gettrace(),
        "float32": (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(after[key], value) if key == "torch" else repr(after[key]) == repr(value)
        assert same, key


@pytest.mark.parametrize("fail_at", [0, 5])
def test_everything_is_left_as_found(digits, network, points, fail_at):
    net = Restless(network, fail_at)
    net.net[2].eval()
    net.net[1].weight.requires_grad_(False)
    net.net[5].bias.grad = torch.ones(10)
    data = points(digits.x[1400:1408], digits.y[1400:1408])
    traced = sys.gettrace()
    sys.settrace(follow)
    try:
        before = state(net)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if fail_at:
                with pytest.raises(RuntimeError, match="on purpose"):
                    judge_with_pgd(net, data, LINF, steps=20, seed=0, batch_size=8)
            else:
                judge_with_pgd(net, data, LINF, steps=20, seed=0, batch_size=8)
        after = state(net)
    finally:
        sys.settrace(traced)
        net.net.train().requires_grad_(True)
        net.net[5].bias.grad = None
    assert net.forwards >= 5
    assert_same(before, after)


def test_autocast_of_the_caller_changes_nothing(digits, network, points):
    data = points(digits.x[1400:1460], digits.y[1400:1460])
    plain = judge_with_pgd(network, data, LINF, steps=5, seed=0, batch_size=60)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        cast = judge_with_pgd(network, data, LINF, steps=5, seed=0, batch_size=60)
    assert torch.equal(plain[1], cast[1])


def quick(network, data, **changes):
    settings = {"ladder": "quick", "seed": 0, "batch_size": 16, "device": CPU, "num_classes": 10}
    return evaluate(network, EvaluationRequest(data, LINF, **(settings | changes)))


@pytest.mark.parametrize(
    "cheat", ["outside the ball", "outside the box", "not fooled", "not a number"]
)
def test_cheating_attack_is_not_believed(digits, network, points, monkeypatch, cheat):
    data = points(digits.x[1400:1450], digits.y[1400:1450])
    others = digits.x[:10][digits.y[:10].argsort()]  # one true digit of every class

    def attack(batch):
        images = {
            "outside the ball": others[(batch.y + 1) % 10],
            "outside the box": batch.x - 0.04,
            "not fooled": batch.x,
            "not a number": torch.full_like(batch.x, torch.nan),
        }[cheat]
        return images, torch.ones(len(batch), dtype=torch.bool)

    monkeypatch.setattr(ladder, "make_pgd", lambda *_: attack)
    result = quick(network, data)
    correct = int(result.per_point["clean"].sum())
    assert result.accuracies["pgd20_acc"] == result.accuracies["clean_acc"] > 0.8
    assert result.attacks["PGD-20"]["rejected"] == correct
    assert any(
        finding.startswith(f"PGD-20: {correct} adversarial images failed the final check")
        for finding in result.findings
    )


def test_points_are_packed_in_order(digits, points):
    data = points(digits.x[:50], digits.y[:50], digits.index[:50] + 1000)
    wanted = torch.arange(50) % 3 > 0  # 33 points
    packs = list(pack_points(data, wanted, 8))
    assert [len(batch) for _, batch in packs] == [8, 8, 8, 8, 1]
    places = torch.cat([places for places, _ in packs])
    assert torch.equal(places, wanted.nonzero().flatten())
    for at, batch in packs:
        assert torch.equal(batch.x, data.x[at])
        assert torch.equal(batch.y, data.y[at])
        assert torch.equal(batch.index, at + 1000)


def test_nothing_wanted_gives_no_batch(digits, points):
    assert (
        list(pack_points(points(digits.x[:9], digits.y[:9]), torch.zeros(9, dtype=torch.bool), 4))
        == []
    )
