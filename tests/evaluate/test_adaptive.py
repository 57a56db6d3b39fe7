"""A defense's attack against itself: it adds to the ladder, and its claims are checked."""

from __future__ import annotations

import pytest
import torch

import abatis
from abatis.api.ball import Ball
from abatis.api.threat import Threat
from abatis.errors import PluginError
from abatis.evaluate import EvaluationRequest, evaluate
from tests.helpers import plugin, tiny

THREAT = Threat.parse("Linf:0.15")


def judged(network, data, attack):
    request = EvaluationRequest(
        data,
        THREAT,
        ladder="quick",
        seed=0,
        batch_size=10,
        device=torch.device("cpu"),
        num_classes=10,
        adaptive={"mine": attack},
    )
    return evaluate(network, request)


@pytest.fixture
def some(digits, points):
    return points(digits.x[1400:1430], digits.y[1400:1430], digits.index[1400:1430])


def climbing(forward, batch, threat):
    """One step of steepest ascent on the margin."""
    x = batch.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-forward(x).gather(1, batch.y[:, None]).sum(), x)
    return Ball(batch.x, threat).climb(batch.x.clone(), gradient, threat.eps)


def test_it_is_one_more_attack(network, some):
    result = judged(network, some, climbing)
    assert result.adaptive_attack == "mine"
    broken = result.per_point["clean"] & ~result.per_point["adaptive (mine)"]
    assert broken.any()
    assert not (broken & result.per_point["robust"]).any()
    assert result.attacks["adaptive (mine)"]["provider"] == "mine"


@pytest.mark.parametrize(
    "cheat",
    [lambda f, batch, t: 1 - batch.x, lambda f, batch, t: batch.x],
    ids=["outside", "not fooled"],
)
def test_what_does_not_hold_is_not_counted(network, some, cheat):
    result = judged(network, some, cheat)
    assert torch.equal(result.per_point["adaptive (mine)"], result.per_point["clean"])


def test_its_failure_names_the_plugin(network, some):
    with pytest.raises(
        PluginError, match="plugin 'mine' failed in its adaptive attack: ZeroDivisionError"
    ):
        judged(network, some, lambda *_: 1 / 0)


@pytest.mark.slow
def test_a_run_asks_the_hook_and_says_so(tmp_path, install):
    install(plugin("brave", adaptive_attack=lambda run: climbing))
    folder = abatis.run(tiny(tmp_path, plugin=["brave"], eval="quick")).folder
    assert '"adaptive_attack": "brave"' in (folder / "eval.json").read_text()
    assert '"role": "adaptive attack"' in (folder / "plan.json").read_text()
