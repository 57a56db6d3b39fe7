"""The attack of TRADES: what it climbs, from where, and with how many forwards."""

from __future__ import annotations

import pytest
import torch
from tests.golden import TinyNetwork, golden
from tests.train.test_step import plain_network

from abatis import Ball, Batch, Net, Threat
from abatis.testing import THREAT, AttackConfig, plan_of, tiny_batch
from abatis_trades.loss import kl_divergence


def test_equals_the_released_attack(monkeypatch):
    """Ten steps of 0.007 in the ball of 0.031 from the stored normal start, eval statistics."""
    arrays, prefix = golden("trades_model"), "model_attack_"
    net = Net(TinyNetwork().load(arrays, prefix))
    x, noise, y = (
        torch.tensor(arrays[prefix + key]) for key in ("x_nat", "noise_normal", "labels")
    )
    monkeypatch.setattr(
        "abatis_trades.attack.random_start", lambda run, ball: ball.x + 0.001 * noise
    )
    plan = plan_of(
        "trades",
        net=net,
        num_classes=10,
        threat="Linf:0.031",
        attack=AttackConfig(step_size="0.007"),
    )
    with net.attack_mode():
        attacked = plan.attacker(net, Batch(x, y, torch.arange(8)))
    same = (attacked.x - torch.tensor(arrays[prefix + "x_adv"])).abs() < 1e-12
    assert same.double().mean() >= 0.999


@pytest.mark.parametrize("threat", ["Linf:8/255", "L2:0.5"])
@pytest.mark.parametrize("start", ["uniform", "normal"])
def test_raises_the_divergence_and_stays_inside(threat, start):
    batch, net, found = tiny_batch(8, 10), Net(plain_network()), []
    for steps in (0, 1, 8):
        plan = plan_of(
            "trades",
            net=net,
            num_classes=10,
            threat=threat,
            attack=AttackConfig(steps=steps, start=start),
        )
        with net.attack_mode():
            x_adv = plan.attacker(net, batch).x
            found.append(kl_divergence(net(batch.x).log_softmax(1), net(x_adv)).mean().item())
        assert Ball(batch.x, Threat.parse(threat)).contains(x_adv).all()
    assert found[0] < found[1] < found[2]


def test_one_step_by_hand():
    """Along the sign of the gradient of KL(p || p') at the start, whatever the labels are."""
    batch, net, points = tiny_batch(8, 10), Net(plain_network()), []
    for steps in (0, 1):
        plan = plan_of(
            "trades", net=net, num_classes=10, attack=AttackConfig(steps=steps, step_size="0.001")
        )
        points.append(plan.attacker(net, Batch(batch.x, batch.y.roll(steps), batch.index)).x)
    start = points[0].requires_grad_()
    p, q = net(batch.x).detach().softmax(1), net(start).softmax(1)
    (gradient,) = torch.autograd.grad((p * (p / q).log()).sum(), start)
    ball = Ball(batch.x, THREAT)
    assert torch.allclose(
        points[1], ball.project(start.detach() + 0.001 * gradient.sign()), rtol=0, atol=1e-15
    )


def test_the_clean_forward_is_made_once():
    calls = []
    net, batch = Net(plain_network()), tiny_batch(4, 10)

    def forward(x):
        calls.append(torch.equal(x, batch.x))
        return net(x)

    attacked = plan_of("trades", net=net, num_classes=10, attack=AttackConfig(steps=5)).attacker(
        forward, batch
    )
    assert calls == [True, False, False, False, False, False]
    assert attacked.info["steps_correct"].shape == (4,)
