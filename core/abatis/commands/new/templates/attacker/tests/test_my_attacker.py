"""The contract of every plugin, and the formula with values computed by hand."""

import pytest
import torch
from torch import nn

from abatis import Batch, Net
from abatis.testing import PluginContract, plan_of


class TestMyAttacker(PluginContract):
    plugin = "my-attacker"


def test_by_hand():
    """The logits are (0, x), the label is 0: a step of twice eps ends on the edge of the ball."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0], [1.0]]))
        layer.bias.zero_()
    net = Net(nn.Sequential(nn.Flatten(), layer))
    plan = plan_of("my-attacker", net=net, num_classes=2, options={"step": 2}, threat="Linf:0.1")
    batch = Batch(torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), torch.tensor([0]))
    with net.attack_mode():
        attacked = plan.attacker(net, batch)
    assert attacked.x.item() == pytest.approx(0.6)
