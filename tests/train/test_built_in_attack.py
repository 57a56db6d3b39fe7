"""The built-in attack of a training step: how far it climbs, where it starts, what it reports."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from abatis.api.ball import Ball
from abatis.api.threat import Threat
from abatis.config.option_groups import AttackConfig
from abatis.nets.net import Net
from abatis.testing import THREAT, plan_of, tiny_batch
from tests.train.test_step import plain_network


@pytest.mark.parametrize("threat", ["Linf:8/255", "L2:0.5"])
@pytest.mark.parametrize("start", ["uniform", "normal"])
def test_the_built_in_attack_raises_the_loss_and_stays_inside(threat, start):
    batch, net = tiny_batch(8, 10), Net(plain_network())
    plan = plan_of(
        net=net, num_classes=10, threat=threat, attack=AttackConfig(steps=5, start=start)
    )
    with net.attack_mode():
        x_adv = plan.attacker(net, batch).x
        losses = [F.cross_entropy(net(x), batch.y).item() for x in (batch.x, x_adv)]
    assert losses[1] > losses[0]
    assert Ball(batch.x, Threat.parse(threat)).contains(x_adv).all()


def test_the_small_normal_start_is_the_field_s():
    """x + 0.001 noise, not clipped: without a step, only the projection moves it into the box."""
    batch, net = tiny_batch(8, 10), Net(plain_network())
    plan = plan_of(net=net, num_classes=10, attack=AttackConfig(steps=0, start="normal"))
    deviation = (plan.attacker(net, batch).x - batch.x).std().item()
    assert deviation == pytest.approx(0.001, rel=0.1)


def test_the_built_in_attack_reports_how_long_a_sample_stayed_correct():
    """Counted before each step, the start included, against a count by hand."""
    batch, module = tiny_batch(8, 10), plain_network()
    net = Net(module)
    plan = plan_of(net=net, num_classes=10, attack=AttackConfig(steps=4))
    with net.attack_mode():
        counted = plan.attacker(net, batch).info["steps_correct"]
        expected = torch.zeros(8, dtype=torch.int64)
        for steps in range(4):
            shorter = plan_of(
                net=net,
                num_classes=10,
                attack=AttackConfig(steps=steps, step_size=str(THREAT.eps / 4)),
            )
            expected += net(shorter.attacker(net, batch).x).argmax(1) == batch.y
    assert torch.equal(counted, expected)
