"""The contract every plugin keeps, and the perturbation against the authors' code."""

from __future__ import annotations

import pytest
import torch
from tests.frontier import Tiny, frontier, is_close, load, tensor_of

from abatis import Batch, Net, Randomness
from abatis.testing import THREAT, PluginContract, plan_of, step_of


@pytest.mark.slow
class TestRwp(PluginContract):
    plugin = "rwp"


def make_step(arrays, found, **options):
    """One step without an attack; notes the perturbation that the update is made with."""
    module = load(Tiny(), arrays, "rwp_net_")
    net, random = Net(module), Randomness(0)
    plan = plan_of(
        "rwp", net=net, num_classes=10, options=options, use={"attacker": "none"}, random=random
    )
    ((_, hooks),) = plan.trainers
    optimizer = torch.optim.SGD(net.list_parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: found.extend(one.clone() for one in hooks.added))
    x, y = tensor_of(arrays, "rwp_x"), tensor_of(arrays, "rwp_y")
    step_of(net, plan, optimizer, THREAT, random)(Batch(x, y, torch.arange(8)), 0, 0, 0.0)
    return module


def test_the_perturbation_is_the_released_one():
    arrays, found = frontier("rwp"), []
    gamma, below = float(arrays["rwp_gamma"]), float(arrays["rwp_min_loss"])
    module = make_step(arrays, found, gamma=gamma, below=below)
    for name, part in zip(("conv1", "conv2", "fc"), found, strict=True):
        assert is_close(part / gamma, arrays[f"rwp_diff_{name}.weight"]), name
    # and it is taken away again
    assert is_close(module.fc.weight.detach(), arrays["rwp_net_fc.weight"], 1e-15)


def test_without_a_sample_below_the_limit_nothing_moves():
    arrays, found = frontier("rwp"), []
    make_step(arrays, found, below=0)
    assert all(bool((part == 0).all()) for part in found)
