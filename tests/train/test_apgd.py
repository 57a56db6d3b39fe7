"""Auto-PGD for training: by hand, inside the ball, and against plain PGD."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.api.threat import Threat
from abatis.config.option_groups import AttackConfig
from abatis.nets.backbones import build
from abatis.nets.net import Net
from abatis.testing import plan_of
from abatis.train.builtin.apgd import checkpoints


def attacked(net, batch, use, threat="Linf:8/255", **attack):
    plan = plan_of(
        net=net, num_classes=10, use={"attacker": use}, threat=threat, attack=AttackConfig(**attack)
    )
    with net.attack_mode():
        return plan.attacker(net, batch)


def loss(net, x, y):
    with net.frozen_mode(), torch.no_grad():
        return F.cross_entropy(net(x), y).item()


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, []), (2, [1]), (3, [1, 2]), (100, [22, 41, 57, 70, 80, 87, 93, 99])]
)
def test_checkpoints_are_those_of_the_paper(steps, expected):
    assert sorted(checkpoints(steps)) == expected


def test_three_steps_by_hand():
    """The gap is largest at 0.59, in the ball of 0.2 around 0.5: the first steps overshoot."""

    def forward(x):
        gap = -((x - 0.59).flatten(1).square().sum(1))
        return torch.stack([-gap, gap], 1)  # label 0: the loss rises with the gap

    batch = Batch(torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), torch.tensor([0]))
    plan = plan_of(
        net=Net(torch.nn.Flatten()),
        num_classes=2,
        use={"attacker": "apgd"},
        threat="Linf:0.2",
        attack=AttackConfig(steps=3, start="none"),
    )
    found = plan.attacker(forward, batch)
    # x0 = 0.5, x1 = 0.7 (step 0.4, projected), farther from 0.59, but the first step counts as one
    # that raised the loss; z = 0.3, x2 = 0.7 + 0.75 * (0.3 - 0.7) + 0.25 * (0.7 - 0.5) = 0.45,
    # farther: eta = 0.2, from 0.5 again; z = 0.7, x3 = 0.5 + 0.75 * 0.2 + 0.25 * (0.5 - 0.7) = 0.6
    assert found.x.item() == pytest.approx(0.6)
    assert found.info["steps_correct"].tolist() == [3]


@pytest.fixture(scope="module")
def net_and_batch():
    torch.manual_seed(0)
    net = Net(
        build("resnet8", num_classes=10, channels=3, image_size=16, mean=[0.5] * 3, std=[0.25] * 3)
    )
    return net, Batch(torch.rand(32, 3, 16, 16), torch.arange(32) % 10, torch.arange(32))


@pytest.mark.parametrize("threat", ["Linf:8/255", "L2:0.5"])
def test_it_stays_in_the_ball_and_finds_more_than_its_start(net_and_batch, threat):
    net, batch = net_and_batch
    losses = []
    for steps in (0, 2, 10):
        found = attacked(net, batch, "apgd", threat, steps=steps)
        assert Ball(batch.x, Threat.parse(threat)).contains(found.x).all()
        assert not found.x.requires_grad
        losses.append(loss(net, found.x, batch.y))
    assert losses[0] < losses[1] < losses[2]


def test_ten_steps_are_as_strong_as_those_of_pgd(net_and_batch):
    net, batch = net_and_batch
    apgd, pgd = (
        loss(net, attacked(net, batch, use, steps=10).x, batch.y) for use in ("apgd", "pgd")
    )
    assert apgd >= 0.98 * pgd
