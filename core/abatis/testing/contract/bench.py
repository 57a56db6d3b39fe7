"""What the contract tests a plugin on: tiny networks, tiny batches, and their plans and steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.context import Network, StepContext
from abatis.api.options import PluginConfig
from abatis.api.randomness import Randomness, seeded
from abatis.api.run import NoNet, Run
from abatis.api.term import Term
from abatis.api.threat import Threat
from abatis.config import discovery
from abatis.config.discovery import Plugin
from abatis.config.option_groups import AttackConfig
from abatis.config.run_config import reserved_names
from abatis.data.sources.digits import read_digits
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.system.timm_import import timm
from abatis.testing.auxiliary import place_auxiliaries
from abatis.train.image_checks import check_attacked, check_batch
from abatis.train.network_hooks import change_network
from abatis.train.plan import Plan, make_plan
from abatis.train.restatistics import renew_statistics
from abatis.train.step import Step
from abatis.train.step_setup import StepSetup

PIXELS = 8
THREAT = Threat.parse("Linf:8/255")
FURTHER = (Threat.parse("L1:2"),)  # of plugins that know several threats

OptionsFor = Callable[[nn.Module, int], Mapping[str, Any]]
"""From a network and its number of classes to the options of the plugin under test."""


def tiny_network(num_classes: int) -> nn.Module:
    """Make a network of convolution, batch norm, ReLU and linear layer on (B, 3, 8, 8).

    It is float64 and has the same weights every time.
    """
    with seeded(0, "tiny network"):
        layers = [
            nn.Conv2d(3, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, num_classes),
        ]
        return nn.Sequential(*layers).double()


def smooth_network(num_classes: int) -> nn.Module:
    """Make a network of convolution, softplus and linear layer on (B, 3, 8, 8), in float64.

    Without batch norm two processes compute what one computes; without a kink in the activation
    rounding errors stay small. It has the same weights every time.
    """
    with seeded(0, "smooth network"):
        layers = [
            nn.Conv2d(3, 4, 3, stride=2),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(36, num_classes),
        ]
        return nn.Sequential(*layers).double()


def tiny_vit(num_classes: int) -> nn.Module:
    """Make a vision transformer of one block on (B, 3, 8, 8), with patches of 4x4 pixels.

    It is float64 and has the same weights every time.
    """
    with seeded(0, "tiny vit"):
        vit: nn.Module = timm.models.VisionTransformer(
            img_size=PIXELS,
            patch_size=4,
            embed_dim=8,
            depth=1,
            num_heads=2,
            num_classes=num_classes,
        )
        return vit.double()


def tiny_batch(size: int, num_classes: int) -> Batch:
    """Make random images, (size, 3, 8, 8) float64, with labels that run through the classes."""
    draw = torch.Generator().manual_seed(size)
    x = torch.rand(size, 3, PIXELS, PIXELS, generator=draw, dtype=torch.float64)
    return Batch(x, torch.arange(size) % num_classes, torch.arange(size))


def digits_batch(size: int) -> Batch:
    """Return the first handwritten digits in three equal channels, (size, 3, 8, 8) float64."""
    digits = read_digits()
    x = digits.x_train[:size].double().div(255).expand(-1, 3, -1, -1).contiguous()  # (B, 3, 8, 8)
    return Batch(x, digits.y_train[:size], torch.arange(size))


def find_last_layer(module: nn.Module) -> nn.Linear:
    """Return the layer that makes the logits."""
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1]


class Bench:
    """One plugin with its options, at work on tiny networks.

    Args:
        name: the plugin; None for a run without plugins.
        options_for: makes the options for a network and its number of classes.
    """

    def __init__(
        self, name: str | None, options_for: OptionsFor = lambda module, num_classes: {}
    ) -> None:
        self.plugin: Plugin | None = (
            None if name is None else discovery.load_plugin(name, reserved=reserved_names())
        )
        self.options_for = options_for

    def config(self, module: nn.Module, changes: Mapping[str, Any] | None = None) -> PluginConfig:
        """Return the validated options for a network, with some changes."""
        assert self.plugin is not None
        return discovery.validate_options(
            self.plugin,
            {**self.options_for(module, find_last_layer(module).out_features), **(changes or {})},
        )

    def change(self, module: nn.Module) -> nn.Module:
        """Return a network as the plugin changes it."""
        if self.plugin is None:
            return module
        config = self.config(module)
        run = self._make_run(NoNet(), find_last_layer(module).out_features, [config], Randomness(0))
        return change_network([self.plugin], {self.plugin.name: config}, run, module)

    def plan(
        self, net: Net, changes: Mapping[str, Any] | None = None, random: Randomness | None = None
    ) -> Plan:
        """Make the plan of the plugin alone."""
        loaded = [] if self.plugin is None else [self.plugin]
        configs = {plugin.name: self.config(net.module, changes) for plugin in loaded}
        num_classes = find_last_layer(net.module).out_features
        run = self._make_run(net, num_classes, configs.values(), random or Randomness(0))
        place_auxiliaries(run, net)
        return make_plan(loaded, configs, {}, run)

    def _make_run(
        self, net: Network, num_classes: int, configs: Collection[PluginConfig], random: Randomness
    ) -> Run:
        """What the hooks are given."""
        return Run(
            net,
            num_classes,
            10,
            10,
            THREAT,
            torch.device("cpu"),
            AttackConfig(steps=2),
            random,
            {type(config): config for config in configs},
            100,
            _gather,
            renewer=_renew,
            further=FURTHER if any(config.several_threats for config in configs) else (),
        )

    def context(self, plan: Plan, net: Net, batch: Batch) -> StepContext:
        """Transform and attack a batch as a step does; returns what the losses would see."""
        for name, hooks in plan.trainers:
            with plan.watch(name, "transform_batch", net, batch):
                changed = hooks.transform_batch(batch)
            check_batch(changed, batch, name)
            batch = changed
        with net.attack_mode(), plan.watch(plan.attacker_name, "attacker", net, batch):
            attacked = plan.attacker(net, batch)
        reach = getattr(plan.attacker, "reach", 1.0)
        check_attacked(attacked, batch, plan.run.threats, plan.attacker_name, reach)
        return StepContext(
            batch,
            attacked.x,
            attacked.info,
            net,
            0,
            0,
            0.0,
            len(batch),
            plan.clean_first,
            summer=_sum_over_processes,
            images=attacked.images,
            keeps_features=bool(plan.features_for),
        )

    def terms(self, net: Net, batch: Batch) -> dict[str, Term]:
        """Compute the terms of one step, with a new plan."""
        plan = self.plan(net)
        return plan.terms(self.context(plan, net, batch))

    def step(
        self,
        module: nn.Module,
        changes: Mapping[str, Any] | None = None,
        lr: float = 0.02,
        accumulate: int = 1,
    ) -> Step:
        """Make a training step on a network, with plain gradient descent."""
        net, random = Net(module), Randomness(0)
        plan = self.plan(net, changes, random)
        optimizer = torch.optim.SGD(net.list_parameters(), lr=lr)
        setup = StepSetup(net, plan, THREAT, random, accumulate=accumulate)
        return Step(setup, optimizer)


def _renew(module: nn.Module) -> None:
    """Renew running statistics over one batch, of which every simulated process has all rows."""
    like = next(module.parameters())
    renew_statistics(module, [tiny_batch(8, 10).x.to(like)])


def _gather(values: Tensor, of: int) -> Tensor:
    """Look the function up at the call: :class:`Lockstep` replaces it meanwhile."""
    return distributed.gather(values, of)


def _sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    return distributed.sum_over_processes(tensors)


def flatten_weights(module: nn.Module) -> Tensor:
    """Return all weights in one vector, detached."""
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


def flatten_trained(net: Net) -> Tensor:
    """Return the weights of a network and of its trained auxiliary ones in one vector, detached."""
    return torch.cat([flatten_weights(one.module) for one in net.list_trained()])
