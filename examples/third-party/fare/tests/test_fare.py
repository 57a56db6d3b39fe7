"""The contract every plugin keeps, and loss and attack against the authors' code."""

from __future__ import annotations

import pytest
import torch
from abatis_fare.embedding import ZeroShot
from tests.frontier import frontier, is_close, tensor_of
from torch import nn

from abatis import Batch, Net, StepContext, UsageError
from abatis.testing import AttackConfig, PluginContract, plan_of, tiny_network


@pytest.mark.slow
class TestFare(PluginContract):
    plugin = "fare"


@pytest.mark.slow
class TestTecoa(PluginContract):
    plugin = "fare"
    options = {"form": "tecoa"}


class Tower(nn.Module):
    """3 tanh(W x)."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x):
        return 3 * torch.tanh(x.flatten(1) @ self.weight.t())


def make_plan(arrays, form):
    """The plan of a network that began with the original weights and has others by now."""
    prefix = f"{form}_"
    module = nn.Sequential(
        Tower(tensor_of(arrays, f"{prefix}W_orig")), ZeroShot(tensor_of(arrays, f"{prefix}text"))
    )
    net = Net(module)
    attack = AttackConfig(steps=10, step_size="1/255")
    plan = plan_of(
        "fare",
        net=net,
        num_classes=10,
        options={"form": form},
        threat="Linf:4/255",
        attack=attack,
    )
    with torch.no_grad():
        module[0].weight.copy_(tensor_of(arrays, f"{prefix}W"))
    return net, plan


@pytest.mark.parametrize("form", ["fare", "tecoa"])
def test_loss_and_attack_are_the_released_ones(form):
    arrays, prefix = frontier("fare"), f"{form}_"
    net, plan = make_plan(arrays, form)
    x, y = tensor_of(arrays, f"{prefix}x"), tensor_of(arrays, f"{prefix}y")
    batch = Batch(x, y, torch.arange(len(y)))
    with net.attack_mode():
        found = plan.attacker.climb(net, batch, x + tensor_of(arrays, f"{prefix}start"))
    same = (found.x - tensor_of(arrays, f"{prefix}x_adv")).abs() <= 1e-9
    assert same.double().mean() >= 0.999
    # the values of the loss are those at the clean images
    ctx = StepContext(batch, x, {}, net, 0, 0, 0.0, len(y), keeps_features=form == "fare")
    (term,) = plan.terms(ctx).values()
    assert is_close(term.value.detach(), arrays[f"{prefix}per_sample"])
    assert is_close(term.value.mean().detach(), arrays[f"{prefix}loss"])


def test_the_embedding_is_what_the_zero_shot_head_gets():
    """Embeddings (3, 4) and (0, 2), classes along the axes: cosines (0.6, 0.8) and (0, 1)."""
    net = Net(nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), ZeroShot(torch.eye(2), 10)))
    with torch.no_grad():
        net.module[1].weight.copy_(torch.eye(2))
    logits, features = net.with_features(torch.tensor([[[[3.0, 4.0]]], [[[0.0, 2.0]]]]))
    assert features.tolist() == [[3, 4], [0, 2]]
    assert logits.flatten().tolist() == pytest.approx([6, 8, 0, 10])


def test_another_norm_is_refused():
    with pytest.raises(UsageError, match="attacks in Linf, not in L2"):
        plan_of("fare", net=Net(tiny_network(10)), num_classes=10, threat="L2:0.5")
