"""The network and the plan of a run: everything it needs before the first step but the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.api.randomness import Randomness, reseed
from abatis.api.run import Run
from abatis.config import discovery
from abatis.config.built_in import SHARDING, load_built_in
from abatis.config.option_values import OLD_NORMALIZE
from abatis.config.plan_row import BUILT_IN, PlanRow
from abatis.config.run_config import RunConfig
from abatis.data import Data, DataInfo, batches_per_epoch
from abatis.errors import DataError, UsageError
from abatis.nets.auxiliaries import add_auxiliary
from abatis.nets.backbones import last_feature_map, resolve, switch_checkpointing
from abatis.nets.backbones.from_timm import with_sync_batch_norm
from abatis.nets.first_pass import try_network
from abatis.nets.net import Net
from abatis.nets.outputs import unwrap_parallel
from abatis.runs.class_balance import describe_balance, with_class_weights
from abatis.runs.engine import set_up_engine, warn_about_device
from abatis.runs.network import build_auxiliary, build_backbone, make_run
from abatis.runs.open_data import data_rows
from abatis.runs.run_folder import initialise
from abatis.runs.start_check import check_start, prepare_module
from abatis.runs.times import warn_about_times
from abatis.system import distributed
from abatis.train.builtin.averaging import WeightAveraging
from abatis.train.builtin.mixing import Mixing
from abatis.train.call_order import list_calls
from abatis.train.judged_weights import choose_judged
from abatis.train.layer_rates import describe_rates
from abatis.train.network_hooks import change_network
from abatis.train.plan import Plan, make_plan, read_use
from abatis.train.restatistics import renew_over_epoch
from abatis.train.statistics_forwards import check_loss_forwards
from abatis.train.trace import Say, describe_answer
from abatis.train.trackers import Tracker


@dataclass(frozen=True)
class Prepared:
    """A run that could start: everything but the images."""

    net: Net
    plan: Plan
    info: DataInfo
    random: Randomness
    notes: tuple[str, ...]
    continues: Mapping[str, Any] = field(default_factory=dict)

    def with_continuation(self, continues: Mapping[str, Any]) -> Prepared:
        """Return the same run, whose plan also shows the run that it goes on from."""
        if not continues:
            return self
        facts = dict(continues)
        row = PlanRow("start", Path(str(facts.pop("run"))).name, "", facts)
        plan = replace(self.plan, rows=(row, *self.plan.rows))
        return replace(self, plan=plan, continues=continues)

    def with_trackers(self, trackers: Mapping[str, Tracker]) -> Prepared:
        """Return the same run, whose plan also tells these trackers; by name."""
        plan = self.plan
        for name, tracker in trackers.items():
            row = PlanRow("trainer", name, tracker.version, {})
            plan = plan.with_trainer(name, tracker, row)
        return replace(self, plan=plan)


def prepare(
    config: RunConfig,
    info: DataInfo,
    device: torch.device,
    model: nn.Module | None,
    images: Data | None = None,
    say: Say | None = None,
    changed: bool = False,
) -> Prepared:
    """Make the network and the plan of a run.

    Args:
        config: what was asked for.
        info: the facts of the data.
        device: where the network will be.
        model: the network, where it was given from Python; else it is built from the options.
        images: the data, where they were opened.
        say: takes the lines of ``--trace``.
        changed: is ``model`` the network as the plugins changed it, and not asked for again?

    Raises:
        UsageError: options that do not fit together, the data or the network.
        PluginConflict: plugins that do not go together.
        PluginError: a plugin that breaks the contract.
    """
    notes = [info.note] if info.note else []
    reseed(config.seed, "initialisation")
    name = type(model).__name__ if model is not None else resolve(config.backbone, info.image_size)
    if model is None:
        model = build_backbone(config, info, config.backbone, config.pretrained, config.own_options)
        notes += _warn_too_small(model, config.backbone, info)
    model, unwrapped = unwrap_parallel(model)
    loaded = discovery.load_plugins(config.plugin)
    run = _make_run(config, info, device, images)
    if not changed:
        model = change_network(loaded, config.options, run, model, say)
    notes += [*unwrapped, *prepare_module(model, name, config.freeze_norms, config.freeze)]
    _check_trainable(model, name, info)
    if config.init is not None:
        notes.append(initialise(model, config, name))
    net = _make_net(config, model, device)
    notes += _try_network(net, info, images, config, name)
    _complete_run(run, config, info, net, images)
    use = read_use(config.use, loaded)
    plan = make_plan(loaded, config.options, use, run, say)
    plan = with_class_weights(plan, config, info, images, device)
    notes += _collect_warnings(config, info, images, net, name)
    notes += warn_about_times(config, None if images is None else run.steps_per_epoch)
    notes += warn_about_device(config, device, timed=images is not None)
    engine = set_up_engine(config, net, plan, info, timed=images is not None)
    rows = _describe_run(config, info, net, plan, name)
    plan = add_own_trainers(replace(plan, rows=(*rows, engine)), config, net, run)
    plan = choose_judged(plan, use.get("weights"))
    if say is not None:
        _trace_plan(say, net, plan)
    return Prepared(net, plan, info, run.random, tuple(notes))


def _trace_plan(say: Say, net: Net, plan: Plan) -> None:
    """Say which auxiliary networks there are, and what the run calls."""
    for name, one in net.auxiliaries.items():
        how = "trained" if one.is_trained else "frozen"
        say(f"trace: auxiliary network {name}, {how}: {describe_answer(one.module)}")
    for row in plan.rows:
        if row.role == "features":
            say(f"trace: features are the input of layer {row.provider}")
    for text in list_calls(plan):
        say(f"trace: calls {text}")


def _collect_warnings(
    config: RunConfig, info: DataInfo, images: Data | None, net: Net, name: str
) -> list[str]:
    """Notes on options and data that are allowed, and perhaps not meant."""
    notes = []
    if config.normalize == OLD_NORMALIZE:
        notes.append(
            "--normalize mean: the mean of the data, and 1 in place of its standard deviation"
        )
    if images is not None:
        notes += describe_balance(config, images)
        notes += _warn_missing_classes(images)
        notes += _warn_unused_images(config, images)
    notes += _warn_no_crops(config, info)
    notes += _warn_one_threat(config)
    return notes + _warn_no_statistics(config, net, name)


def _make_net(config: RunConfig, model: nn.Module, device: torch.device) -> Net:
    """The network on its device, sharded where that is asked for."""
    if config.sync_bn:
        model = with_sync_batch_norm(model, device)
    switch = partial(switch_checkpointing, model) if config.grad_checkpointing else None
    net = Net(model.to(device), config.precision, config.attack.precision, switch)
    if config.shard != "none" and distributed.several():
        net.sharding = load_built_in(SHARDING)(model, config.shard)
    return net


def _make_run(config: RunConfig, info: DataInfo, device: torch.device, images: Data | None) -> Run:
    """What the hooks are given; without images an epoch has one step."""
    return make_run(
        config,
        info.num_classes,
        device,
        config.epoch_updates
        or (batches_per_epoch(len(images.train), config.batch_size) if images else 1),
        images.places if images else 0,
    )


def _complete_run(
    run: Run, config: RunConfig, info: DataInfo, net: Net, images: Data | None
) -> None:
    """The same run, once the network is there."""
    run.place_net(net)
    build = partial(build_auxiliary, config, info, run.device)
    images_like = _make_images(info, run.device)
    run.place_adder(
        partial(add_auxiliary, net, build, images=images_like, classes=info.num_classes)
    )
    if images is not None:
        frozen = net.list_frozen()
        run.place_renewer(partial(renew_over_epoch, images.train, config, run.clock, frozen))


def _make_images(info: DataInfo, device: torch.device) -> Tensor:
    """Two black images like those of the run, to try networks on."""
    return torch.zeros(2, info.channels, info.image_size, info.image_size, device=device)


def add_own_trainers(plan: Plan, config: RunConfig, net: Net, run: Run) -> Plan:
    """The plan with the trainer hooks that are built in."""
    if config.mix.is_on:
        plan.check_labels(soft=True)
        row = PlanRow("trainer", "mixing", BUILT_IN, config.mix.model_dump())
        plan = plan.with_trainer("mixing", Mixing(config.mix, run), row, first=True)
    if config.ema:
        warmup = config.ema_warmup * run.epochs * run.steps_per_epoch  # updates
        options = {"decay": config.ema, **({"warmup": config.ema_warmup} if warmup else {})}
        row = PlanRow("trainer", "averaging", BUILT_IN, options)
        twin = None if net.sharding is None else net.sharding.make_twin()
        # last, so that it averages what the others leave behind
        averaging = WeightAveraging(net.module, config.ema, twin, warmup)
        plan = plan.with_trainer("averaging", averaging, row)
    return plan


def _describe_run(
    config: RunConfig, info: DataInfo, net: Net, plan: Plan, name: str
) -> tuple[PlanRow, ...]:
    """All rows of the plan but that of the engine."""
    return (
        *_describe_inputs(config, info, net.module, name),
        *describe_rates(net.module, config.optim.rates, name),
        *_describe_features(net, plan, info, name),
        *plan.rows,
        *_describe_auxiliaries(net),
        *_describe_statistics(config, net, plan),
    )


def _describe_inputs(
    config: RunConfig, info: DataInfo, model: nn.Module, name: str
) -> tuple[PlanRow, ...]:
    """The plan's rows of the data and of the network."""
    size = sum(parameter.numel() for parameter in model.parameters())
    options = {"parameters": f"{size:,}", "pretrained": config.pretrained}
    if config.normalize != "data":
        options["normalize"] = config.normalize
    options |= config.own_options
    return *data_rows(config, info), PlanRow("backbone", name, "", options)


def _describe_auxiliaries(net: Net) -> tuple[PlanRow, ...]:
    """The plan's rows of the networks that plugins use beside the one that is judged."""
    return tuple(
        PlanRow(
            "auxiliary",
            name,
            "",
            {
                "parameters": f"{sum(weight.numel() for weight in one.module.parameters()):,}",
                "trained": "yes" if one.is_trained else f"no, sha256 {one.digest[:16]}",
            },
        )
        for name, one in net.auxiliaries.items()
    )


def _describe_features(net: Net, plan: Plan, info: DataInfo, name: str) -> tuple[PlanRow, ...]:
    """The plan's row of the layer whose input is the features, where a plugin reads them."""
    if not plan.features_for:
        return ()
    x = _make_images(info, next(net.module.parameters()).device)
    readers = ", ".join(plan.features_for)
    try:
        head = net.find_head(x)
    except UsageError as error:
        raise UsageError(
            f"{readers} reads features, and {name} has none", where=error.what, fix=error.fix
        ) from error
    layers = (own for own, part in net.module.named_modules() if part is head)
    return (PlanRow("features", next(layers), "", {"read by": readers}),)


def _describe_statistics(config: RunConfig, net: Net, plan: Plan) -> tuple[PlanRow, ...]:
    """The plan's row of the forwards that move the running statistics, where a run fixes them."""
    statistics = config.statistics
    if not statistics.is_set:
        return ()
    check_loss_forwards(statistics.loss, ["clean"] if plan.clean_first else [])
    options = {
        "attack": statistics.attack or "none",
        "loss": statistics.loss or "as the losses ask",
        "after": statistics.after or "none",
        **({"first update": "replaces them"} if statistics.first == "replace" else {}),
    }
    return (PlanRow("statistics", "forwards", "", options),)


def _warn_no_statistics(config: RunConfig, net: Net, name: str) -> list[str]:
    """A note where forwards are to move running statistics, and the network has none."""
    if not config.statistics.is_set or net.running_statistics():
        return []
    return [f"--statistics has no effect: {name} has no batch norm with running statistics"]


def _warn_too_small(model: nn.Module, backbone: str, info: DataInfo) -> list[str]:
    """A note where images shrink to less than 2x2 before the pooling: a network for larger ones."""
    last = last_feature_map(model, info.channels, info.image_size) if ":" not in backbone else None
    if last is None or min(last) >= 2:
        return []
    size = f"{last[0]}x{last[1]} for images of {info.image_size} pixels"
    return [f"the last feature map of {backbone} is {size}: choose a network for small images"]


def _warn_missing_classes(images: Data) -> list[str]:
    """A note where classes have no training image."""
    seen, classes = set(images.train.labels.tolist()), images.info.num_classes
    first = next((label for label in range(classes) if label not in seen), None)
    if first is None:
        return []
    missing = classes - len(seen)
    return [f"{missing} of {classes} classes have no training image, the first is {first}"]


def _warn_unused_images(config: RunConfig, images: Data) -> list[str]:
    """A note where a fixed order leaves the same images out of every epoch."""
    n = len(images.train)
    left = n % config.batch_size if n > config.batch_size else 0
    if config.order != "fixed" or not left:
        return []
    return [
        f"--order fixed: the last {left} of {n:,} training images are never used, as they do not"
        f" fill a batch of {config.batch_size}"
    ]


def _warn_no_crops(config: RunConfig, info: DataInfo) -> list[str]:
    """A note where crops are to be padded, and there are none."""
    if config.crop_padding == "zeros" or info.augment != "none":
        return []
    return [f"--crop-padding {config.crop_padding} has no effect: images are not cropped"]


def _warn_one_threat(config: RunConfig) -> list[str]:
    """A note for each plugin that attacks in several threats, where the run has one."""
    return [
        f"{name} attacks in several threats, and this run has one: add --also-train L2:0.5"
        for name, options in config.options.items()
        if options.several_threats and not config.also_train
    ]


def _check_trainable(model: nn.Module, name: str, info: DataInfo) -> None:
    """Raise UsageError or DataError where there is nothing to train, or nothing to learn."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(
            f"{name} has no trainable parameters",
            fix="call requires_grad_() on the parameters that are to be trained",
        )
    if info.num_classes < 2:
        raise DataError(
            "the data set has only one class",
            where=info.name,
            fix="give images of at least two classes",
        )


def _try_network(
    net: Net, info: DataInfo, images: Data | None, config: RunConfig, name: str
) -> list[str]:
    """Notes on how the network is used; an error where it does not take such images or labels."""
    if images is None:
        device = next(net.module.parameters()).device
        x = torch.zeros(2, info.channels, info.image_size, info.image_size, device=device)
    else:
        few = images.train.subset(torch.arange(min(2, len(images.train))))
        x = next(iter(few.eval_batches(2))).x
    copied = config.ema > 0 and config.shard == "none"  # pieces are averaged in a twin
    notes = check_start(net, x, info.num_classes, name, copied)
    if images is None:
        return notes
    with net.whole(), net.frozen_mode():
        outputs = try_network(net.module, x, name).shape[1]
    largest = max(int(split.labels.max()) for split in (images.train, images.test))
    if largest >= outputs:
        raise DataError(
            f"label {largest} does not fit {name}, which has {outputs} outputs",
            fix="labels count from 0; give the network one output for each class",
        )
    return notes
