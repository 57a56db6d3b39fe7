"""What the contract tries a plugin on: tiny networks in float64, tiny batches, and plans and steps made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.context import Run, StepContext
from abatis.api.options import PluginConfig
from abatis.api.randomness import Randomness, seeded
from abatis.api.term import Term
from abatis.api.threat import Threat
from abatis.config import discovery
from abatis.config.discovery import Plugin
from abatis.config.run_config import AttackConfig, reserved_names
from abatis.data.named import read_named
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.system.timm_import import timm
from abatis.train.image_checks import check_attacked, check_batch
from abatis.train.micro_batches import Engine
from abatis.train.plan import Plan, make_plan
from abatis.train.step import Step

PIXELS = 8
THREAT = Threat.parse("Linf:8/255")

OptionsFor = Callable[[nn.Module, int], Mapping[str, Any]]
"""A network and its number of classes to the options of the plugin under test."""


def tiny_network(num_classes: int) -> nn.Module:
    """Convolution, batch norm, ReLU, linear: float64, the same weights every time."""
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
    """Without batch norm, so that two processes see what one sees; smooth, so that rounding stays rounding. float64."""
    with seeded(0, "smooth network"):
        layers = [
            nn.Conv2d(3, 4, 3, stride=2),
            nn.Softplus(),
            nn.Flatten(),
            nn.Linear(36, num_classes),
        ]
        return nn.Sequential(*layers).double()


def tiny_vit(num_classes: int) -> nn.Module:
    """A vision transformer of one block on patches of 4x4 pixels: float64, the same weights every time."""
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
    """Random images with labels that run through the classes."""
    draw = torch.Generator().manual_seed(size)
    x = torch.rand(size, 3, PIXELS, PIXELS, generator=draw, dtype=torch.float64)
    return Batch(x, torch.arange(size) % num_classes, torch.arange(size))


def digits_batch(size: int) -> Batch:
    """The first handwritten digits, in three equal channels."""
    digits = read_named("digits", Path())
    x = digits.x_train[:size].double().div(255).expand(-1, 3, -1, -1).contiguous()  # (B, 3, 8, 8)
    return Batch(x, digits.y_train[:size], torch.arange(size))


def last_layer(module: nn.Module) -> nn.Linear:
    """The layer that makes the logits."""
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1]


class Bench:
    """One plugin with its options, or none, put to work on a network."""

    def __init__(
        self, name: str | None, options_for: OptionsFor = lambda module, num_classes: {}
    ) -> None:
        self.plugin: Plugin | None = (
            None if name is None else discovery.load(name, reserved=reserved_names())
        )
        self.options_for = options_for

    def config(self, module: nn.Module, changes: Mapping[str, Any] | None = None) -> PluginConfig:
        """The validated options for a network."""
        assert self.plugin is not None
        return discovery.options_of(
            self.plugin,
            {**self.options_for(module, last_layer(module).out_features), **(changes or {})},
        )

    def plan(
        self, net: Net, changes: Mapping[str, Any] | None = None, random: Randomness | None = None
    ) -> Plan:
        """The plan of the plugin alone."""
        loaded = [] if self.plugin is None else [self.plugin]
        configs = {plugin.name: self.config(net.module, changes) for plugin in loaded}
        run = Run(
            net,
            last_layer(net.module).out_features,
            10,
            10,
            THREAT,
            torch.device("cpu"),
            AttackConfig(steps=2),
            random or Randomness(0),
            {type(config): config for config in configs.values()},
            100,
            _gathered,
        )
        return make_plan(loaded, configs, {}, run)

    def context(self, plan: Plan, net: Net, batch: Batch) -> StepContext:
        """Transforms and attack as the step makes them, up to what the losses get."""
        for name, hooks in plan.trainers:
            with plan.watched(name, "transform_batch", net, batch):
                changed = hooks.transform_batch(batch)
            check_batch(changed, batch, name)
            batch = changed
        with net.attack_mode(), plan.watched(plan.attacker_name, "attacker", net, batch):
            attacked = plan.attacker(net, batch)
        check_attacked(
            attacked, batch, THREAT, plan.attacker_name, getattr(plan.attacker, "reach", 1.0)
        )
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
            summer=_summed,
        )

    def terms(self, net: Net, batch: Batch) -> dict[str, Term]:
        """The terms of one step from a fresh plan."""
        plan = self.plan(net)
        return plan.terms(self.context(plan, net, batch))

    def step(
        self,
        module: nn.Module,
        changes: Mapping[str, Any] | None = None,
        lr: float = 0.02,
        accumulate: int = 1,
    ) -> Step:
        """A step on a network, with plain gradient descent."""
        net, random = Net(module), Randomness(0)
        optimizer = torch.optim.SGD(module.parameters(), lr=lr)
        engine = Engine(net, self.plan(net, changes, random), THREAT, random, accumulate=accumulate)
        return Step(engine, optimizer)


def _gathered(values: Tensor, of: int) -> Tensor:
    """Looked up when it is called: :class:`Lockstep` replaces the function meanwhile."""
    return distributed.gathered(values, of)


def _summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    return distributed.summed(tensors)


def flat(module: nn.Module) -> Tensor:
    """All weights in one vector, detached."""
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])
