"""Every pair of plugins: its steps run, or a conflict says what to do."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from abatis.api.randomness import Randomness, seeded
from abatis.commands.registry.entries import read_registry
from abatis.config import discovery
from abatis.config.option_groups import AttackConfig
from abatis.errors import PluginConflict, UsageError
from abatis.nets.net import Net
from abatis.testing import THREAT, plan_of, replay, step_of, tiny_batch, tiny_network
from tests.helpers import our_plugins

PLUGINS = our_plugins()


def weights_after_two_steps(*names, options=None, use=None):
    net = Net(tiny_network(10))
    random = Randomness(0)
    plan = plan_of(
        *names,
        net=net,
        num_classes=10,
        options=options,
        use=use,
        attack=AttackConfig(steps=2),
        random=random,
    )
    step = step_of(net, plan, torch.optim.SGD(net.list_parameters(), lr=0.01), THREAT, random)
    with seeded(0, "composition"):
        totals = [step(tiny_batch(8, 10), number, 100, 0.5).total for number in range(2)]
    assert all(total.isfinite() for total in totals)
    return torch.cat([parameter.detach().flatten() for parameter in net.module.parameters()])


@pytest.mark.parametrize(("first", "second"), list(combinations(PLUGINS, 2)))
def test_every_pair_runs_or_names_the_way_out(first, second):
    conflict = conflict_of(first, second)
    if isinstance(conflict, PluginConflict):
        role = "loss" if "the loss" in conflict.what else "attacker"
        assert {first, second} <= {word.strip(",:") for word in conflict.what.split()}
        assert f"--use {role}={first} or --use {role}={second}" in conflict.fix
        weights_after_two_steps(first, second, use={role: first})
    elif conflict is not None:  # one needs what the other does not give
        assert first in str(conflict) or second in str(conflict)
        assert "--use" in conflict.fix


def conflict_of(*names):
    try:
        weights_after_two_steps(*names)
    except UsageError as conflict:
        return conflict
    return None


def test_two_losses_are_a_conflict():
    assert conflict_of("emr", "mart") is None
    others = [name for name in PLUGINS if name != "mart"]
    losses = [
        name
        for name in others
        if "loss" in read_registry()[name].hooks
        and not is_wrapper(name)
        and name != "seat"  # whose loss needs two trained networks
    ]
    assert [name for name in others if conflict_of("mart", name)] == losses


def is_wrapper(name):
    return discovery.load_plugin(name).module.defense_loss.abatis_impl["wrapper"]


@pytest.mark.parametrize(
    "name", [name for name in PLUGINS if discovery.load_plugin(name).config_class.neutral]
)
def test_a_plugin_that_is_switched_off_leaves_every_bit(name):
    neutral = dict(discovery.load_plugin(name).config_class.neutral)
    assert torch.equal(weights_after_two_steps(name, options=neutral), weights_after_two_steps())


def test_what_the_registry_calls_tested_is_a_pair_without_conflict():
    for name, method in read_registry().items():
        for other in method.tested_with:
            assert name in read_registry()[other].tested_with, f"{other} does not name {name}"
            weights_after_two_steps(name, other)


@pytest.mark.parametrize("name", ["emr", "amm", "average-margin", "trades"])
def test_several_norms_compose_with_penalties_and_losses(name):
    """In Linf and L1; TRADES' loss on the images of the chosen norm."""
    steps = replay(
        ("multi-norm", name),
        tiny_network(10),
        [tiny_batch(8, 10)] * 4,
        attack={"steps": 2},
        also_train=["L1:2"],
        use={"attacker": "multi-norm"},
        epoch=100,
    )
    assert all(step.total.isfinite() for step in steps)
    assert {int(step.info["threat"][0]) for step in steps} == {0, 1}
