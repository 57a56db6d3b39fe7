"""Network and plan of a run: everything it needs before the first step but the images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from abatis.api.context import Run
from abatis.api.randomness import Randomness, reseed
from abatis.config import discovery
from abatis.config.plan_row import BUILT_IN, PlanRow
from abatis.config.run_config import RunConfig
from abatis.data import Data, DataInfo, batches_per_epoch
from abatis.errors import DataError, UsageError
from abatis.nets.backbones import build, checkpointed, first_pass, last_feature_map, resolve
from abatis.nets.backbones.from_timm import with_sync_batch_norm
from abatis.nets.net import Net
from abatis.nets.sharding import Sharding
from abatis.runs.open_data import data_rows
from abatis.runs.run_folder import start_from
from abatis.system import distributed
from abatis.train.builtin.averaging import WeightAveraging
from abatis.train.builtin.mixing import Mixing
from abatis.train.call_order import order
from abatis.train.plan import Plan, make_plan
from abatis.train.sharding_checks import check_sharding
from abatis.train.trace import Say


@dataclass(frozen=True)
class Prepared:
    """A run that could start: everything but the images."""

    net: Net
    plan: Plan
    info: DataInfo
    random: Randomness
    notes: tuple[str, ...]


def prepare(
    config: RunConfig,
    info: DataInfo,
    device: torch.device,
    model: nn.Module | None,
    images: Data | None = None,
    say: Say | None = None,
) -> Prepared:
    """Network and plan; raises UsageError, PluginConflict or PluginError.

    images: where they were opened; say: hears how the plan is made.
    """
    notes = [info.note] if info.note else []
    reseed(config.seed, "initialisation")
    named = type(model).__name__ if model is not None else resolve(config.backbone, info.image_size)
    if model is None:
        model = build(
            config.backbone,
            num_classes=info.num_classes,
            channels=info.channels,
            image_size=info.image_size,
            mean=info.mean,
            std=info.std,
            pretrained=config.pretrained,
        )
        notes += _too_small(model, config.backbone, info)
    _check_trainable(model, named, info)
    if config.init is not None:
        notes.append(start_from(model, config.init))
    net, random = _net(config, model, device), Randomness(config.seed)
    steps_per_epoch = batches_per_epoch(len(images.train), config.batch_size) if images else 1
    run = Run(
        net,
        info.num_classes,
        config.epochs,
        steps_per_epoch,
        config.threat_model,
        device,
        config.attack,
        random,
        {type(options): options for options in config.options.values()},
        images.places if images else 0,
        distributed.gathered,
    )
    plan = make_plan(discovery.load_all(config.plugin), config.options, config.use, run, say)
    notes += _unseen(images) if images else []
    notes += [
        f"{name} begins after epoch {options.idle_epochs}, and the run has {config.epochs}: it does nothing"
        for name, options in config.options.items()
        if options.idle_epochs >= config.epochs
    ]
    _check_head(net, info, images, config)
    rows = (*_facts(config, info, net.module, named), *plan.rows, _engine(config, net, plan, info))
    plan = _with_own_trainers(replace(plan, rows=rows), config, net, run)
    if say is not None:
        for text in order(plan):
            say(f"trace: calls {text}")
    return Prepared(net, plan, info, random, tuple(notes))


def _net(config: RunConfig, model: nn.Module, device: torch.device) -> Net:
    """The network on its device, and in pieces, as it is asked for."""
    if config.sync_bn:
        model = with_sync_batch_norm(model, device)
    switch = partial(checkpointed, model) if config.grad_checkpointing else None
    net = Net(model.to(device), config.precision, config.attack.precision, switch)
    if config.shard != "none" and distributed.several():
        net.sharding = Sharding(model, config.shard)
    return net


def _with_own_trainers(plan: Plan, config: RunConfig, net: Net, run: Run) -> Plan:
    """The plan with the trainer hooks that are no plugins."""
    if config.mix.is_on:
        plan.check_labels(soft=True)
        row = PlanRow("trainer", "mixing", BUILT_IN, config.mix.model_dump())
        plan = plan.with_trainer("mixing", Mixing(config.mix, run), row, first=True)
    if config.ema:
        row = PlanRow("trainer", "averaging", BUILT_IN, {"decay": config.ema})
        twin = None if net.sharding is None else net.sharding.twin()
        # last, so that it averages what the others leave behind
        plan = plan.with_trainer("averaging", WeightAveraging(net.module, config.ema, twin), row)
    return plan


def _facts(config: RunConfig, info: DataInfo, model: nn.Module, named: str) -> tuple[PlanRow, ...]:
    """The plan's rows of the images and of the network."""
    size = sum(parameter.numel() for parameter in model.parameters())
    backbone = PlanRow(
        "backbone", named, "", {"parameters": f"{size:,}", "pretrained": config.pretrained}
    )
    return *data_rows(config, info), backbone


def _engine(config: RunConfig, net: Net, plan: Plan, info: DataInfo) -> PlanRow:
    """Set up how forward passes are made; raises UsageError where they cannot be compiled."""
    if config.compile in ("step", "both") and plan.needs_double_backward:
        asking = ", ".join(name for name, _ in plan.regularizers)
        raise UsageError(
            f"--compile {config.compile}: a compiled step cannot be differentiated twice, as {asking} needs it",
            fix="--compile attack",
        )
    if config.shard != "none":
        check_sharding(config, plan, net.module)
    device = next(net.module.parameters()).device
    like = torch.empty(2, info.channels, info.image_size, info.image_size, device=device)
    # a folded norm reads the weights of its convolution, which the passes of a loss have in pieces there
    with net.whole():
        choices = net.tune(
            Randomness(config.seed).uniform("engine", like),
            config.fold and config.shard != "blocks",
        )
    net.compile(
        attack=config.compile in ("attack", "both"), step=config.compile in ("step", "both")
    )
    spread = (
        {"shard": config.shard, "sync_bn": config.sync_bn}
        if config.shard != "none" or config.sync_bn
        else {}
    )
    precision = {"attack": config.attack.precision or config.precision, "step": config.precision}
    choices |= {"activations": "computed again"} if config.grad_checkpointing else {}
    return PlanRow(
        "engine",
        "torch",
        torch.__version__,
        {**choices, **precision, "compile": config.compile, **spread},
    )


def _too_small(model: nn.Module, backbone: str, info: DataInfo) -> list[str]:
    """A warning where the images have shrunk to less than 2x2 before the pooling of a net made for larger ones."""
    last = last_feature_map(model, info.channels, info.image_size) if ":" not in backbone else None
    if last is None or min(last) >= 2:
        return []
    size = f"{last[0]}x{last[1]} at {info.image_size} pixels"
    return [f"the last feature map of {backbone} is {size}: choose a net for small images"]


def _check_trainable(model: nn.Module, named: str, info: DataInfo) -> None:
    """Is there anything to learn, and anything that learns?"""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(
            f"no parameter of {named} can be trained",
            fix="model.requires_grad_() for those that shall be",
        )
    if info.num_classes < 2:
        raise DataError(
            "the data have one class", where=info.name, fix="give images of at least two classes"
        )


def _check_head(net: Net, info: DataInfo, images: Data | None, config: RunConfig) -> None:
    """Does the network take such images, and has it a logit for every label?"""
    if images is None:
        device = next(net.module.parameters()).device
        x = torch.zeros(2, info.channels, info.image_size, info.image_size, device=device)
    else:
        x = next(
            iter(images.train.subset(torch.arange(min(2, len(images.train)))).eval_batches(2))
        ).x
    with net.whole():
        logits = first_pass(net.frozen, x, config.backbone)
    if images is None:
        return
    largest = max(int(split.labels.max()) for split in (images.train, images.test))
    if largest >= logits.shape[1]:
        raise DataError(
            f"label {largest} is beyond the head of {config.backbone}: {logits.shape[1]} classes",
            fix="labels count from 0; give the network a head with enough classes",
        )


def _unseen(images: Data) -> list[str]:
    """A warning where there are labels that no image of the training has."""
    seen, classes = set(images.train.labels.tolist()), images.info.num_classes
    first = next((label for label in range(classes) if label not in seen), None)
    if first is None:
        return []
    return [
        f"{classes - len(seen)} of {classes} classes have no training image, the first is {first}"
    ]
