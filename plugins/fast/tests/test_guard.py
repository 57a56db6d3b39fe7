"""The guard: a network that fools one long step and no short ones, one that fools nobody, and a
real run.
"""

from __future__ import annotations

import pytest
import torch
from tests.helpers import tiny
from tests.train.test_step import make_step, plain_network, weights
from torch import nn

import abatis
from abatis import Batch, Net
from abatis.testing import THREAT, plan_of, tiny_batch
from abatis_fast.trainer import CatastrophicOverfitting


class Pit(nn.Module):
    """Class 0 where the mean square of x - 1/2 exceeds 0.3 eps^2: the images around 1/2 lie in a
    pit of class 1.

    One step of 1.25 eps from uniform noise crosses the pit: |delta| is uniform in [0, eps] before
    it and min(eps, 1.25 eps - |delta|) behind it, of mean square (1/4 + (1 - 1/64) / 3) eps^2 =
    0.578 eps^2. Steps of eps / 4 end within eps / 4 of the bottom, where the mean square is at most
    eps^2 / 16.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x):
        height = (x - 0.5).square().flatten(1).mean(1) / THREAT.eps**2 - 0.3  # (B,)
        return self.scale * torch.stack([height, -height], dim=1)


def pit_step(**options):
    module = Pit()
    batch = Batch(
        torch.full((8, 3, 8, 8), 0.5, dtype=torch.float64),
        torch.zeros(8, dtype=torch.int64),
        torch.arange(8),
    )
    step = make_step(module, "fast", options=options, lr=1e-6)
    return step, batch, module


def test_the_pit_is_what_it_says():
    step, batch, module = pit_step()
    x_adv = step.plan.attacker(Net(module), batch).x
    height = module(x_adv)[:, 0]
    assert height.mean().item() == pytest.approx(1 / 4 + (1 - 1 / 64) / 3 - 0.3, abs=0.03)
    assert (height > 0).all()


def test_stops_with_a_diagnosis_before_the_update():
    step, batch, module = pit_step(guard_every=3, patience=2)
    for number in range(3):
        step(batch, number, 0, 0.0)
    before = weights(module)
    with pytest.raises(CatastrophicOverfitting) as caught:
        step(batch, 3, 0, 0.0)
    message = str(caught.value)
    assert "100% under the single-step attack and 0% under PGD-10" in message
    assert "step 3, epoch 1" in message
    assert "--fast.guard 0" in message
    assert len(message.splitlines()) <= 4
    assert caught.value.exit_code == 1
    assert torch.equal(weights(module), before)


@pytest.mark.parametrize(
    ("every", "patience", "stopped_at"), [(1, 1, 0), (1, 3, 2), (2, 3, 4), (5, 2, 5)]
)
def test_counts_failed_checks_in_a_row(every, patience, stopped_at):
    step, batch, _ = pit_step(guard_every=every, patience=patience)
    for number in range(stopped_at):
        step(batch, number, 0, 0.0)
    with pytest.raises(CatastrophicOverfitting):
        step(batch, stopped_at, 0, 0.0)


def test_a_check_that_passes_forgives_and_a_checkpoint_remembers():
    step, batch, _ = pit_step(guard_every=1, patience=2)
    ((_, guard),) = step.plan.trainers
    step(batch, 0, 0, 0.0)
    assert guard.state_dict() == {"failed": 1}
    step(
        labelled(batch, [1] * 8), 1, 0, 0.0
    )  # with the label of the bottom both attacks climb out: no lead
    assert guard.state_dict() == {"failed": 0}
    guard.load_state_dict({"failed": 1})
    with pytest.raises(CatastrophicOverfitting):
        step(batch, 2, 0, 0.0)


def labelled(batch, y):
    return Batch(batch.x, torch.tensor(y), batch.index)


def test_the_lead_is_compared_with_the_option():
    """Half of the labels are those of the pit's bottom: 50 % right under the single step, 0 % under
    PGD.
    """
    for lead, stops in ((0.49, True), (0.5, False), (0.51, False)):
        step, batch, _ = pit_step(guard=lead, guard_every=1, patience=1)
        if stops:
            with pytest.raises(CatastrophicOverfitting, match="a training batch is 50% under"):
                step(labelled(batch, [0, 1] * 4), 0, 0, 0.0)
        else:
            step(labelled(batch, [0, 1] * 4), 0, 0, 0.0)


def test_without_a_guard_there_is_no_hook():
    assert not plan_of("fast", net=Net(Pit()), num_classes=2, options={"guard": 0}).trainers


def test_the_guard_changes_nothing_but_the_time():
    """Not the weights, nor the running statistics, modes or gradients of a network with batch
    norm.
    """
    found = []
    for guard in (0, 0.5):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 10)
        ).double()
        step = make_step(module, "fast", options={"guard": guard, "guard_every": 1})
        for number in range(3):
            step(tiny_batch(8, 10), number, 0, 0.0)
        assert all(part.training for part in module.modules())
        assert all(
            parameter.requires_grad and parameter.grad is None for parameter in module.parameters()
        )
        found.append(
            torch.cat([value.flatten().double() for value in module.state_dict().values()])
        )
    assert torch.equal(*found)


def test_an_ordinary_network_is_left_alone():
    step = make_step(plain_network(), "fast", options={"guard_every": 1, "patience": 1})
    for number in range(10):
        step(tiny_batch(8, 10), number, 0, 0.0)


@pytest.mark.slow
def test_stops_a_real_run_that_overfits(tmp_path):
    """Digits in a ball of half the range of the pixels: after some 240 steps FGSM-RS leaves 4 in 10
    right, and PGD none.
    """
    config = tiny(
        tmp_path,
        plugin=["fast"],
        fast={"guard_every": 20},
        limit=None,
        threat="Linf:0.5",
        batch_size=64,
        epochs=30,
    )
    with pytest.raises(CatastrophicOverfitting, match="catastrophic overfitting"):
        abatis.run(config)
