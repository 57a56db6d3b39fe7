"""The training attack against two published ones, with batch statistics, from stored starts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abatis.api.ball import Ball
from abatis.api.threat import Threat
from abatis.nets.net import Net
from abatis.train.builtin.pgd import maximise
from tests.golden import TinyNetwork, golden


class Normalized(nn.Module):
    def __init__(self, network, mean, std):
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, x):
        return self.network((x - self.mean) / self.std)


def attacked(net, x, y, start, threat, step):
    def cross_entropy(logits):
        return F.cross_entropy(logits, y, reduction="none")

    with net.attack_mode(batch_statistics=True):
        return maximise(net, Ball(x, Threat.parse(threat)), start, y, cross_entropy, 10, step).x


def test_plain_adversarial_training_of_robust_overfitting():
    """Attack of 10 steps of 2/255 in 8/255, then loss and parameter gradients at its end."""
    arrays = golden("pgd_at_rice")
    network = TinyNetwork().load(arrays)
    mean, std = (torch.tensor(arrays[key]).double() for key in ("mean", "std"))
    net = Net(Normalized(network, mean, std))
    x, y = torch.tensor(arrays["x_nat"]), torch.tensor(arrays["labels"])
    start = (x + torch.tensor(arrays["start_uniform"])).clamp(0, 1)
    x_adv = attacked(net, x, y, start, "Linf:8/255", 2 / 255)
    same = (x_adv - (x + torch.tensor(arrays["delta"])).clamp(0, 1)).abs() < 1e-12
    assert same.double().mean() >= 0.999
    loss = F.cross_entropy(net(x_adv), y)
    gradients = dict(
        zip(
            dict(network.named_parameters()),
            torch.autograd.grad(loss, network.parameters()),
            strict=True,
        )
    )
    assert loss.item() == pytest.approx(float(arrays["loss"]), rel=1e-10)
    assert network.largest_difference(arrays, "grad_", gradients) <= 1e-10


def test_the_attack_of_effective_margin_training():
    """Its released attack runs with batch statistics; only there the pixels agree."""
    arrays = golden("emr")
    net = Net(TinyNetwork().load(arrays))
    x, y = torch.tensor(arrays["x_nat"]), torch.tensor(arrays["labels"])
    start = (x + torch.tensor(arrays["attack_start_uniform_f32"]).double()).clamp(0, 1)
    threat, step = f"Linf:{float(arrays['attack_eps'])}", float(arrays["attack_alpha"])
    same = (
        attacked(net, x, y, start, threat, step) - torch.tensor(arrays["attack_x_adv"])
    ).abs() < 1e-12
    assert same.double().mean() >= 0.999
