"""The contract of every plugin, and the constraint with values computed by hand."""

import pytest
import torch
from torch import nn

from abatis import Net
from abatis.testing import PluginContract, plan_of


class TestMyTrainer(PluginContract):
    plugin = "my-trainer"


def test_by_hand():
    """Weights (3, 4) grow fourfold and are cut back to twice their initial, restored norm."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
    ((_, hooks),) = plan_of(
        "my-trainer", net=Net(layer), num_classes=1, options={"factor": 2}
    ).trainers
    state = hooks.state_dict()
    with torch.no_grad():
        layer.weight.mul_(4)
    hooks.load_state_dict(state)
    hooks.after_update(None)
    assert layer.weight.flatten().tolist() == pytest.approx([6.0, 8.0])
