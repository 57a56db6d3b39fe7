"""One run from configuration to result: data, network, plan, training, evaluation, run folder."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from abatis import plugins, processes
from abatis.backbones import build, checkpointed, first_pass, last_feature_map, resolve
from abatis.builtin.averaging import WeightAveraging
from abatis.builtin.mixing import Mixing
from abatis.builtin.trackers import check, tracking
from abatis.checkpoint import CHECKPOINTS, disk, set_aside, write_text
from abatis.config import RunConfig
from abatis.data import Data, DataInfo, batches_per_epoch
from abatis.environment import ENVIRONMENT, environment, resumptions
from abatis.errors import DataError, UsageError
from abatis.evaluate import evaluate
from abatis.evaluate.ladder import LADDERS, Ladder
from abatis.evaluate.of_run import selection, training_of
from abatis.evaluate.record import STATE, facts, read_record, write_record
from abatis.net import Net
from abatis.plan import BUILT_IN, Plan, Row, make_plan
from abatis.randomness import Randomness, reseed, untouched
from abatis.report.run_report import write_report
from abatis.report.terminal import Reporter
from abatis.resume import Start, find_start, flat, is_finished
from abatis.run_folder import PYTHON, claimed, load_weights, recipe, start_from, write_run_toml
from abatis.sources import data_rows, describe_data, open_sources
from abatis.stopping import stopped_at_once
from abatis.trace import Say, order
from abatis.trainer import Trainer
from abatis.types import Run

EVAL_BATCH = 256
ACCURACIES = ("clean_acc", "pgd20_acc", "autoattack_acc", "robust_acc")


@dataclass(frozen=True)
class Result:
    """What a run leaves: its folder and its numbers, as fractions of n test images; None for what was not measured.

    robust_acc: the share that no attack broke; verdict: PASS, WARN or FAIL of the masking diagnostics.
    """

    folder: Path
    clean_acc: float | None = None
    pgd20_acc: float | None = None
    autoattack_acc: float | None = None
    robust_acc: float | None = None
    verdict: str | None = None
    n: int = 0


@dataclass(frozen=True)
class Prepared:
    """A run that could start: everything but the images."""

    net: Net
    plan: Plan
    info: DataInfo
    random: Randomness
    notes: tuple[str, ...]


def run(config: RunConfig, *, model: nn.Module | None = None, data: object = None) -> Result:
    """Train and judge; the same as ``defense-run``.

    model: a module of your own on images in [0, 1], used instead of ``config.backbone``.
    data: (train, test), each a pair (x, y) of arrays or a torch Dataset of (image in [0, 1], label), used instead of
    ``config.data``. Raises a subclass of AbatisError; the global random generators are left as found.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise UsageError(f"model is no torch module, but {model!r:.80}", fix="an instance: model=Net(), not Net or a name")
    marks = {"backbone": f"{PYTHON}{type(model).__name__}"} if model is not None else {}
    marks |= {"data": f"{PYTHON}{type(data).__name__}"} if data is not None else {}
    config = config.model_copy(update=marks)
    with processes.joined(), untouched():
        return _run(config, model, data)


def _run(config: RunConfig, model: nn.Module | None, given: object) -> Result:
    for value, option in ((model, "backbone"), (given, "data")):
        if value is None and getattr(config, option).startswith(PYTHON):
            raise UsageError(f"this run's {option} was an object of yours, {getattr(config, option)[len(PYTHON):]}",
                             fix="pass it again: abatis.run(config, model=..., data=...)")  # fmt: skip
    check(config.track)
    device, first = pick_device(config.device), processes.rank() == 0
    reporter = Reporter(config.quiet or not first)
    if config.name is None and not config.dry_run and processes.may_restart():
        raise UsageError("a run that is started again by itself must know its folder", fix="give it a --name")
    if processes.restarted():
        config = config.model_copy(update={"resume": True})
    if config.batch_size < processes.world_size() * config.accumulate:
        what = (
            f"batch size {config.batch_size} for {processes.world_size()} processes with {config.accumulate} micro-batches each"
        )
        raise UsageError(f"{what}: there would be empty ones", fix="a larger --batch-size, or fewer processes")
    if config.dry_run:
        info = describe_data(config) if given is None else open_sources(config, given, device).info
        prepared = prepare(config, info, device, model, None, reporter.note if config.trace else None)
        reporter.plan(prepared.plan.rows, prepared.notes, config)
        return Result(Path())
    with claimed(config) if first else nullcontext() as claim:
        folder = processes.first_says(claim) or Path()
        return _train_and_judge(config, model, given, device, folder, reporter)


def _train_and_judge(
    config: RunConfig, model: nn.Module | None, given: object, device: torch.device, folder: Path, reporter: Reporter
) -> Result:
    first = processes.rank() == 0
    judged = _is_judged(config, folder)
    start = find_start(config, folder, device, judged) if config.resumes else Start()
    if judged and start.loaded is not None and is_finished(start.loaded.state, config):
        reporter.note(f"this run is finished: {folder}")
        return _result(folder)
    images = open_sources(config, given, device)
    prepared = prepare(config, images.info, device, model, images, reporter.note if config.trace else None)
    with tracking(config.track if first else (), folder, dict(flat(recipe(config.to_toml())))) as trackers:
        for name, tracker in trackers.items():
            plan = prepared.plan.with_trainer(name, tracker, Row("trainer", name, version(name), {}))
            prepared = replace(prepared, plan=plan)
        if first:
            set_aside(folder / CHECKPOINTS, start.rejected)
            _describe(config, prepared.plan, folder, device, start)
        reporter.plan(prepared.plan.rows, prepared.notes, config)
        trainer = _trained(config, prepared, images, folder, reporter, start)
        if config.eval != "none":
            record = _judge(config, prepared.plan, trainer, images, folder, device, reporter)
            reporter.evaluation(record)
            if first:
                found = {f"test_{name}": record[name] for name in ACCURACIES if record.get(name) is not None}
                trainer.tell({"epoch": trainer.epochs_ended, **found})
    if first:
        write_report(folder)
    processes.first_says(None)  # the others wait until everything is written
    reporter.closing(folder, images.info.note)
    return _result(folder) if config.eval != "none" else Result(folder)


def _describe(config: RunConfig, plan: Plan, folder: Path, device: torch.device, start: Start) -> None:
    """What the run is and where it runs, into its folder."""
    write_run_toml(folder, config)
    record = environment(device, {row.provider: row.version for row in plan.rows if row.version})
    record["files"] = {plugin.name: str(plugin.file) for plugin in plugins.load_all(config.plugin) if plugin.file}
    record["resumed"] = [*resumptions(folder), *(["; ".join(start.told())] if start.told() else [])]
    with disk(folder):
        write_text(folder / ENVIRONMENT, json.dumps(record, indent=2) + "\n")
        write_text(folder / "plan.json", json.dumps([asdict(row) for row in plan.rows], indent=2, default=str) + "\n")


def _trained(config: RunConfig, prepared: Prepared, images: Data, folder: Path, reporter: Reporter, start: Start) -> Trainer:
    """Train to the end, from a checkpoint where the run resumes."""
    info = images.info
    facts = {"backbone": config.backbone if ":" not in config.backbone else "factory", "num_classes": info.num_classes,
             "channels": info.channels, "image_size": info.image_size,
             **({"class_names": info.class_names} if info.class_names else {})}  # fmt: skip
    trainer = Trainer(config, prepared.net, prepared.plan, images, folder, facts, prepared.random)
    start.restore(trainer)
    lost = ["the best weights so far are lost: the best are chosen anew"] if trainer.epochs_ended and not trainer.best else []
    for text in [*start.told(), *lost]:
        reporter.note(text)
    with reporter.training(trainer.steps, trainer.done):
        trainer.fit(reporter)
    return trainer


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
        model = build(config.backbone, num_classes=info.num_classes, channels=info.channels, image_size=info.image_size,
                      mean=info.mean, std=info.std, pretrained=config.pretrained)  # fmt: skip
        notes += _too_small(model, config.backbone, info)
    _check_trainable(model, named, info)
    if config.init is not None:
        notes.append(start_from(model, config.init))
    net, random = _net(config, model, device), Randomness(config.seed)
    steps_per_epoch = batches_per_epoch(len(images.train), config.batch_size) if images else 1
    run = Run(net, info.num_classes, config.epochs, steps_per_epoch, config.threat_model, device, config.attack, random,
              {type(options): options for options in config.options.values()}, images.places if images else 0)  # fmt: skip
    plan = make_plan(plugins.load_all(config.plugin), config.options, config.use, run, say)
    notes += _unseen(images) if images else []
    notes += [
        f"{name} begins after epoch {options.idle_epochs}, and the run has {config.epochs}: it does nothing"
        for name, options in config.options.items()
        if options.idle_epochs >= config.epochs
    ]
    _check_head(net, info, images, config)
    rows = (*_facts(config, info, net.module, named), *plan.rows, _engine(config, net, plan, info))
    plan = _with_own_trainers(replace(plan, rows=rows), config, run)
    if say is not None:
        for text in order(plan):
            say(f"trace: calls {text}")
    return Prepared(net, plan, info, random, tuple(notes))


def _net(config: RunConfig, model: nn.Module, device: torch.device) -> Net:
    """The network on its device, and in pieces, as it is asked for."""
    if config.sync_bn:
        model = processes.synchronised(model, device)
    switch = partial(checkpointed, model) if config.grad_checkpointing else None
    net = Net(model.to(device), config.precision, config.attack.precision, switch)
    if config.shard != "none" and processes.several():
        from abatis.sharding import Sharding  # its import takes a second

        net.sharding = Sharding(model, config.shard)
    return net


def _with_own_trainers(plan: Plan, config: RunConfig, run: Run) -> Plan:
    """The plan with the trainer hooks that are no plugins."""
    if config.mix.is_on:
        plan.check_labels(soft=True)
        row = Row("trainer", "mixing", BUILT_IN, config.mix.model_dump())
        plan = plan.with_trainer("mixing", Mixing(config.mix, run), row, first=True)
    if config.ema:
        row = Row("trainer", "averaging", BUILT_IN, {"decay": config.ema})
        twin = None if run.net.sharding is None else run.net.sharding.twin()
        # last, so that it averages what the others leave behind
        plan = plan.with_trainer("averaging", WeightAveraging(run.net.module, config.ema, twin), row)
    return plan


def _facts(config: RunConfig, info: DataInfo, model: nn.Module, named: str) -> tuple[Row, ...]:
    """The plan's rows of the images and of the network."""
    size = sum(parameter.numel() for parameter in model.parameters())
    backbone = Row("backbone", named, "", {"parameters": f"{size:,}", "pretrained": config.pretrained})
    return *data_rows(config, info), backbone


def _engine(config: RunConfig, net: Net, plan: Plan, info: DataInfo) -> Row:
    """Set up how forward passes are made; raises UsageError where they cannot be compiled."""
    if config.compile in ("step", "both") and plan.needs_double_backward:
        asking = ", ".join(name for name, _ in plan.regularizers)
        raise UsageError(f"--compile {config.compile}: a compiled step cannot be differentiated twice, as {asking} needs it",
                         fix="--compile attack")  # fmt: skip
    if config.shard != "none":
        from abatis.sharding import check_sharding

        check_sharding(config, plan, net.module)
    device = next(net.module.parameters()).device
    like = torch.empty(2, info.channels, info.image_size, info.image_size, device=device)
    # a folded norm reads the weights of its convolution, which the passes of a loss have in pieces there
    with net.whole():
        choices = net.tune(Randomness(config.seed).uniform("engine", like), config.fold and config.shard != "blocks")
    net.compile(attack=config.compile in ("attack", "both"), step=config.compile in ("step", "both"))
    spread = {"shard": config.shard, "sync_bn": config.sync_bn} if config.shard != "none" or config.sync_bn else {}
    precision = {"attack": config.attack.precision or config.precision, "step": config.precision}
    choices |= {"activations": "computed again"} if config.grad_checkpointing else {}
    return Row("engine", "torch", torch.__version__, {**choices, **precision, "compile": config.compile, **spread})


def _too_small(model: nn.Module, backbone: str, info: DataInfo) -> list[str]:
    """A warning where the images have shrunk to less than 2x2 before the pooling of a net made for larger ones."""
    last = last_feature_map(model, info.channels, info.image_size) if ":" not in backbone else None
    if last is None or min(last) >= 2:
        return []
    size = f"{last[0]}x{last[1]} at {info.image_size} pixels"
    return [f"the last feature map of {backbone} is {size}: choose a net for small images"]


def pick_device(name: str) -> torch.device:
    """``auto`` takes the accelerator where there is one; raises UsageError for a device that is not there."""
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if found is not None and found.type == "cuda" and processes.several():
            return torch.device("cuda", torch.cuda.current_device())  # each process has its own
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"no device {name!r} here: {error}".splitlines()[0], fix="--device auto takes what there is"
        ) from error
    return device


def _check_trainable(model: nn.Module, named: str, info: DataInfo) -> None:
    """Is there anything to learn, and anything that learns?"""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"no parameter of {named} can be trained", fix="model.requires_grad_() for those that shall be")
    if info.num_classes < 2:
        raise DataError("the data have one class", where=info.name, fix="give images of at least two classes")


def _check_head(net: Net, info: DataInfo, images: Data | None, config: RunConfig) -> None:
    """Does the network take such images, and has it a logit for every label?"""
    if images is None:
        device = next(net.module.parameters()).device
        x = torch.zeros(2, info.channels, info.image_size, info.image_size, device=device)
    else:
        x = next(iter(images.train.subset(torch.arange(min(2, len(images.train)))).eval_batches(2))).x
    with net.whole():
        logits = first_pass(net.frozen, x, config.backbone)
    if images is None:
        return
    largest = max(int(split.labels.max()) for split in (images.train, images.test))
    if largest >= logits.shape[1]:
        raise DataError(f"label {largest} is beyond the head of {config.backbone}: {logits.shape[1]} classes",
                        fix="labels count from 0; give the network a head with enough classes")  # fmt: skip


def _unseen(images: Data) -> list[str]:
    """A warning where there are labels that no image of the training has."""
    seen, classes = set(images.train.labels.tolist()), images.info.num_classes
    first = next((label for label in range(classes) if label not in seen), None)
    if first is None:
        return []
    return [f"{classes - len(seen)} of {classes} classes have no training image, the first is {first}"]


def _judge(
    config: RunConfig, plan: Plan, trainer: Trainer, images: Data, folder: Path, device: torch.device, reporter: Reporter
) -> dict[str, Any]:
    """Look at the test set, with the best weights."""
    model = load_weights(folder, trainer.judged).to(device)
    with stopped_at_once(folder), reporter.judging() as progress:
        verdict = evaluate(
            model, images.test, config.threat_model, ladder=cast(Ladder, config.eval), seed=config.seed, batch_size=EVAL_BATCH,
            device=device, num_classes=images.info.num_classes, progress=progress, state=folder / STATE,
            training=training_of(config, model, images), adaptive=plan.adaptive,
        )  # fmt: skip
    told = facts(str(folder), model, images.info, config.threat_model, config.seed)
    record = {**verdict.to_json(), **told, **selection(images, folder, int(trainer.best["epoch"]))}
    return write_record(folder, record) if processes.rank() == 0 else record


def _is_judged(config: RunConfig, folder: Path) -> bool:
    """Is there an evaluation that goes as far as this configuration asks for?"""
    ladder = read_record(folder).get("ladder")
    return config.eval == "none" or (ladder in LADDERS and LADDERS.index(ladder) >= LADDERS.index(config.eval))


def _result(folder: Path) -> Result:
    record = read_record(folder)
    names = (*ACCURACIES, "verdict")
    return Result(folder, **{name: record.get(name) for name in names}, n=record.get("n", 0))
