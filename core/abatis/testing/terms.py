"""For tests: the terms of losses and penalties by themselves, plans and steps outside any run.

The total of terms is always ``sum(term.weight * term.value.mean())``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.context import StepContext
from abatis.api.options import PluginConfig
from abatis.api.randomness import Randomness
from abatis.api.run import NoNet, Now, Run
from abatis.api.term import Term
from abatis.api.threat import Threat
from abatis.config import discovery
from abatis.config.discovery import Plugin
from abatis.config.option_groups import AttackConfig
from abatis.errors import UsageError
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.testing.auxiliary import place_auxiliaries
from abatis.train.network_hooks import change_network
from abatis.train.plan import Plan, make_plan
from abatis.train.restatistics import renew_statistics
from abatis.train.step import Step
from abatis.train.step_setup import StepSetup

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
    further: Mapping[str, Tensor] | None = None,
    features: Mapping[str, Tensor] | None = None,
    also_train: Sequence[str] = (),
) -> Mapping[str, Term]:
    """Compute the terms of one or several plugins from logits, without a network.

    They are differentiable in all logits and features. For plugins that need a forward pass use
    :func:`penalty_terms`.

    Args:
        names: plugins, by name or module.
        logits_clean: logits at the clean images, (B, K).
        logits_adv: logits at the adversarial images, (B, K).
        y: labels, (B,).
        options: ``{"beta": 5}`` for one plugin, ``{"a": {"beta": 5}, "b": {...}}`` for several.
        info: what an attacker would report, by name: (B,) each.
        progress: the share of the training that is done, in [0, 1).
        epoch: the epoch, from 0.
        further: logits at further images of the attacker, by name: (B, K) each.
        features: the features (B, D) at ``clean``, ``adv`` and further images, by name.
        also_train: further threats of the training attack.

    Returns:
        The terms by name; those of a regularizer are named ``plugin/term``.

    Raises:
        UsageError: a plugin needs a network.
    """
    plan = plan_of(
        *names,
        net=Net(_NoNetwork()),
        num_classes=logits_clean.shape[1],
        options=options,
        also_train=also_train,
    )
    x, x_adv = logits_clean.new_zeros(len(y), 1, 1, 1), logits_clean.new_zeros(len(y), 1, 1, 1)
    ctx = _make_context(Net(_NoNetwork()), x, x_adv, y, info, progress, epoch)
    ctx.__dict__.update(logits_clean=logits_clean, logits_adv=logits_adv)
    ctx.place_outputs(further or {}, features or {})
    plan.run.clock.now = Now(0, epoch, progress)
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
    """Compute the terms of one regularizer on a model.

    Any precision is allowed, and the range of the images is not checked.

    Args:
        plugin: the plugin, by name or module.
        model: a torch module, used in the mode it is in.
        x: clean images, (B, C, H, W).
        x_adv: adversarial images, (B, C, H, W).
        y: labels, (B,).
        options: the options of the plugin.
        progress: the share of the training that is done, in [0, 1).
        epoch: the epoch, from 0.

    Returns:
        The terms by name, ``plugin/term``.

    Raises:
        UsageError: the plugin has no regularizer.
    """
    net = Net(model)
    with torch.no_grad(), net.frozen_mode():
        classes = model(x[:1]).shape[1]
    plan = plan_of(plugin, net=net, num_classes=classes, options=options)
    ctx = _make_context(net, x, x_adv, y, None, progress, epoch)
    plan.run.clock.now = Now(0, epoch, progress)
    found = plan.penalties(ctx)
    if not found and not any(row.role == "unused" for row in plan.rows):
        raise UsageError(f"plugin {plugin!r} has no regularizer", fix="use loss_terms for a loss")
    return found


def network_of(
    *names: object,
    module: nn.Module,
    num_classes: int,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a network as plugins change it by ``defense_network``.

    Args:
        names: plugins, by name or module.
        module: the network as it was built.
        num_classes: K.
        options: ``{"s": 15}`` for one plugin, ``{"a": {"s": 15}, "b": {...}}`` for several.
    """
    loaded = sorted((_load(name) for name in names), key=lambda plugin: plugin.name)
    configs = _validate_options(loaded, options or {})
    run = Run(
        NoNet(),
        num_classes,
        epochs=1,
        steps_per_epoch=1,
        threat=Threat.parse("Linf:8/255"),
        device=next(module.parameters()).device,
        attack=AttackConfig(),
        random=Randomness(0),
        options={type(config): config for config in configs.values()},
        train_size=0,
    )
    return change_network(loaded, configs, run, module)


def plan_of(
    *names: object,
    net: Net,
    num_classes: int,
    options: Mapping[str, Any] | None = None,
    use: Mapping[str, str] | None = None,
    threat: str = "Linf:8/255",
    attack: AttackConfig | None = None,
    random: Randomness | None = None,
    train_size: int = TRAIN_SIZE,
    given_start: Callable[[], Tensor] | None = None,
    train_batches: Sequence[Tensor] = (),
    also_train: Sequence[str] = (),
) -> Plan:
    """Make the plan of some plugins on a network, outside any run.

    Args:
        names: plugins, by name or module; none for the built-in ones alone.
        net: the network.
        num_classes: K.
        options: ``{"beta": 5}`` for one plugin, ``{"a": {"beta": 5}, "b": {...}}`` for several.
        use: which plugin fills a role, where several could, like ``{"attacker": "none"}``.
        threat: norm and radius.
        attack: the options of the built-in attack.
        random: the random numbers of the steps; of seed 0 if not given.
        train_size: how many training images there are.
        given_start: the noise of the attack's start, instead of the drawn one.
        also_train: further threats of the training attack.
        train_batches: images (B, C, H, W) that ``run.restatistics`` passes over.
    """
    loaded = [_load(name) for name in names]
    loaded.sort(key=lambda plugin: plugin.name)
    configs = _validate_options(loaded, options or {})
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
        train_size=train_size,
        gatherer=distributed.gather,
        given_start=given_start,
        renewer=partial(renew_statistics, batches=train_batches) if train_batches else None,
        further=tuple(map(Threat.parse, also_train)),
    )
    place_auxiliaries(run, net)
    return make_plan(loaded, configs, use or {}, run)


def step_of(
    net: Net,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    threat: Threat,
    random: Randomness,
    **setup: Any,
) -> Step:
    """Make the training step of a plan, outside any run.

    Args:
        net: the network of the plan.
        plan: what :func:`plan_of` returned.
        optimizer: a torch optimizer of ``net.list_parameters()``.
        threat: norm and radius.
        random: the random numbers that the plan was made with.
        setup: further settings, such as ``accumulate=2`` for two micro-batches.

    Raises:
        UsageError: a network is trained that the optimizer does not know.
    """
    known = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    for name, one in net.auxiliaries.items():
        if one.is_trained and not known.issuperset(map(id, one.list_parameters())):
            raise UsageError(
                f"the optimizer lacks the parameters of the auxiliary network '{name}'",
                fix="make it of net.list_parameters(), behind the plan",
            )
    return Step(StepSetup(net, plan, threat, random, **setup), optimizer)


class _NoNetwork(nn.Module):
    """In the place of a network; a forward pass is refused with what to use instead."""

    def forward(self, x: Tensor) -> Tensor:
        raise UsageError(
            "loss_terms has no network, and this plugin needs a forward pass",
            fix="use penalty_terms",
        )


def _make_context(
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
        summer=distributed.sum_over_processes,
    )


def _load(plugin: object) -> Plugin:
    if isinstance(plugin, str):
        return discovery.load_plugin(plugin)
    name = getattr(plugin, "__name__", type(plugin).__name__)
    return discovery.make_plugin(discovery.normalise_name(name.removeprefix("abatis_")), plugin)


def _validate_options(
    loaded: Sequence[Plugin], options: Mapping[str, Any]
) -> dict[str, PluginConfig]:
    """Return the options by plugin, from tables by name or, for one plugin, from one table."""
    tables = {discovery.normalise_name(key): value for key, value in options.items()}
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
        plugin.name: discovery.validate_options(
            plugin, cast("Mapping[str, Any]", tables.get(plugin.name, {}))
        )
        for plugin in loaded
    }
