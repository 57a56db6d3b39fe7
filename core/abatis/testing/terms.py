"""For tests, ours and a plugin author's: losses and penalties by themselves, and the contract every plugin keeps.

The total of what :func:`loss_terms` and :func:`penalty_terms` return is always ``sum(t.weight * t.value.mean())``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.context import Run, StepContext
from abatis.api.options import PluginConfig
from abatis.api.randomness import Randomness
from abatis.api.term import Term
from abatis.api.threat import Threat
from abatis.config import discovery
from abatis.config.discovery import Plugin
from abatis.config.run_config import AttackConfig
from abatis.errors import UsageError
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.train.micro_batches import Engine
from abatis.train.plan import Plan, make_plan
from abatis.train.step import Step

TRAIN_SIZE = 1024  # of plans outside any run


def loss_terms(
    *names: object,
    logits_clean: Tensor,
    logits_adv: Tensor,
    y: Tensor,
    options: Mapping[str, Any] | None = None,
    info: Mapping[str, Tensor] | None = None,
    progress: float = 0.0,
    epoch: int = 0,
) -> Mapping[str, Term]:
    """The terms of a composed loss at the level of logits, with no model; differentiable in both logits.

    names: plugins, by name or module. logits_clean, logits_adv: (B, K); y: (B,). options: ``{"beta": 5}`` for one plugin,
    ``{"a": {"beta": 5}, "b": {...}}`` for several. info: (B,) each, as an attacker would report. epoch counts from 0.
    Regularizers that need a network are refused by the network's absence: use :func:`penalty_terms`.
    """
    plan = plan_of(
        *names, net=Net(_NoNetwork()), num_classes=logits_clean.shape[1], options=options
    )
    x, x_adv = logits_clean.new_zeros(len(y), 1, 1, 1), logits_clean.new_zeros(len(y), 1, 1, 1)
    ctx = _context(Net(_NoNetwork()), x, x_adv, y, info, progress, epoch)
    ctx.__dict__.update(logits_clean=logits_clean, logits_adv=logits_adv)
    return plan.terms(ctx)


def penalty_terms(
    plugin: object,
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    options: Mapping[str, Any] | None = None,
    progress: float = 0.0,
    epoch: int = 0,
) -> Mapping[str, Term]:
    """The terms of one regularizer on a real model, in any precision and with no check of the range of x.

    model: used in the mode it is in. x, x_adv: (B, C, H, W); y: (B,). The keys are ``plugin/term``.
    """
    net = Net(model)
    with torch.no_grad(), net.frozen_mode():
        classes = model(x[:1]).shape[1]
    plan = plan_of(plugin, net=net, num_classes=classes, options=options)
    ctx = _context(net, x, x_adv, y, None, progress, epoch)
    found = plan.penalties(ctx)
    if not found and not any(row.role == "unused" for row in plan.rows):
        raise UsageError(f"plugin {plugin!r} has no regularizer", fix="use loss_terms for a loss")
    return found


def plan_of(
    *names: object,
    net: Net,
    num_classes: int,
    options: Mapping[str, Any] | None = None,
    use: Mapping[str, str] | None = None,
    threat: str = "Linf:8/255",
    attack: AttackConfig | None = None,
    random: Randomness | None = None,
) -> Plan:
    """The plan of some plugins (names or modules) on a network, outside any run."""
    loaded = [_loaded(name) for name in names]
    loaded.sort(key=lambda plugin: plugin.name)
    configs = _configs(loaded, options or {})
    device = next((parameter.device for parameter in net.module.parameters()), torch.device("cpu"))
    run = Run(
        net,
        num_classes,
        epochs=1,
        steps_per_epoch=1,
        threat=Threat.parse(threat),
        device=device,
        attack=attack or AttackConfig(),
        random=random or Randomness(0),
        options={type(config): config for config in configs.values()},
        train_size=TRAIN_SIZE,
        gatherer=distributed.gathered,
    )
    return make_plan(loaded, configs, use or {}, run)


def step_of(
    net: Net,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    threat: Threat,
    random: Randomness,
    **engine: Any,
) -> Step:
    """The training step of a plan outside any run; engine: further fields of :class:`Engine`, such as ``accumulate=2``."""
    return Step(Engine(net, plan, threat, random, **engine), optimizer)


class _NoNetwork(nn.Module):
    """Stands where a network would be; a forward says what to use instead."""

    def forward(self, x: Tensor) -> Tensor:
        raise UsageError(
            "loss_terms has logits only, and this plugin asks for a forward pass",
            fix="use penalty_terms",
        )


def _context(
    net: Net,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    info: Mapping[str, Tensor] | None,
    progress: float,
    epoch: int,
) -> StepContext:
    batch = Batch(x, y, torch.arange(len(y), device=y.device))
    return StepContext(
        batch,
        x_adv,
        info or {},
        net,
        step=0,
        epoch=epoch,
        progress=progress,
        global_size=len(y),
        summer=distributed.summed,
    )


def _loaded(plugin: object) -> Plugin:
    if isinstance(plugin, str):
        return discovery.load(plugin)
    name = getattr(plugin, "__name__", type(plugin).__name__)
    return discovery.describe(discovery.normal(name.removeprefix("abatis_")), plugin)


def _configs(loaded: Sequence[Plugin], options: Mapping[str, Any]) -> dict[str, PluginConfig]:
    """Options by plugin: as tables by name, or flat where there is one plugin."""
    tables = {discovery.normal(key): value for key, value in options.items()}
    names = {plugin.name for plugin in loaded}
    if not tables.keys() <= names or not all(
        isinstance(value, Mapping | PluginConfig) for value in tables.values()
    ):
        if len(loaded) != 1:
            raise UsageError(
                f"options for several plugins are tables by name: {', '.join(sorted(names))}",
                fix='options={"name": {"option": 1}}',
            )
        tables = {loaded[0].name: dict(options)}
    return {
        plugin.name: discovery.options_of(
            plugin, cast("Mapping[str, Any]", tables.get(plugin.name, {}))
        )
        for plugin in loaded
    }
