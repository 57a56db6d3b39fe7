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

from abatis.api.randomness import untouched
from abatis.config import discovery
from abatis.config.plan_row import PlanRow
from abatis.config.run_config import LADDERS, Ladder, RunConfig
from abatis.config.toml import flat
from abatis.data import Data
from abatis.errors import UsageError
from abatis.evaluate import evaluate, pgd_verdicts
from abatis.evaluate.record import facts
from abatis.report.eval_record import STATE, read_record, write_record
from abatis.report.run_report import write_report
from abatis.report.terminal import Reporter
from abatis.runs.open_data import describe_data, open_sources
from abatis.runs.own_run import selection, training_of
from abatis.runs.prepare import Prepared, prepare
from abatis.runs.run_folder import PYTHON, claimed, load_weights, recipe, write_run_toml
from abatis.system import distributed
from abatis.system.device import pick_device
from abatis.system.environment import ENVIRONMENT, environment, resumptions
from abatis.system.files import disk, write_text
from abatis.system.signals import stopped_at_once
from abatis.train.checkpoint import CHECKPOINTS, set_aside
from abatis.train.plan import Plan
from abatis.train.resume import Start, find_start, fitting, is_finished
from abatis.train.trackers import check, tracking
from abatis.train.trainer import Trainer, Training

EVAL_BATCH = 256
VALIDATION_STEPS = 10
EVAL_BATCH_AT_LEAST = 64  # images at a time in a validation
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


def run(config: RunConfig, *, model: nn.Module | None = None, data: object = None) -> Result:
    """Train and judge; the same as ``defense-run``.

    model: a module of your own on images in [0, 1], used instead of ``config.backbone``.
    data: (train, test), each a pair (x, y) of arrays or a torch Dataset of (image in [0, 1], label), used instead of
    ``config.data``. Raises a subclass of AbatisError; the global random generators are left as found.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise UsageError(
            f"model is no torch module, but {model!r:.80}",
            fix="an instance: model=Net(), not Net or a name",
        )
    marks = {"backbone": f"{PYTHON}{type(model).__name__}"} if model is not None else {}
    marks |= {"data": f"{PYTHON}{type(data).__name__}"} if data is not None else {}
    config = config.model_copy(update=marks)
    with distributed.joined(), untouched():
        return _run(config, model, data)


def _run(config: RunConfig, model: nn.Module | None, given: object) -> Result:
    for value, option in ((model, "backbone"), (given, "data")):
        if value is None and getattr(config, option).startswith(PYTHON):
            raise UsageError(
                f"this run's {option} was an object of yours, {getattr(config, option)[len(PYTHON) :]}",
                fix="pass it again: abatis.run(config, model=..., data=...)",
            )
    check(config.track)
    device, first = pick_device(config.device), distributed.rank() == 0
    reporter = Reporter(config.quiet or not first)
    if config.name is None and not config.dry_run and distributed.may_restart():
        raise UsageError(
            "a run that is started again by itself must know its folder", fix="give it a --name"
        )
    if distributed.restarted():
        config = config.model_copy(update={"resume": True})
    if config.batch_size < distributed.world_size() * config.accumulate:
        what = f"batch size {config.batch_size} for {distributed.world_size()} processes with {config.accumulate} micro-batches each"
        raise UsageError(
            f"{what}: there would be empty ones", fix="a larger --batch-size, or fewer processes"
        )
    if config.dry_run:
        info = describe_data(config) if given is None else open_sources(config, given, device).info
        prepared = prepare(
            config, info, device, model, None, reporter.note if config.trace else None
        )
        reporter.plan(prepared.plan.rows, prepared.notes, config)
        return Result(Path())
    with claimed(config) if first else nullcontext() as claim:
        folder = distributed.first_says(claim) or Path()
        return _train_and_judge(config, model, given, device, folder, reporter)


def _train_and_judge(
    config: RunConfig,
    model: nn.Module | None,
    given: object,
    device: torch.device,
    folder: Path,
    reporter: Reporter,
) -> Result:
    first = distributed.rank() == 0
    judged = _is_judged(config, folder)
    start = find_start(config, folder, device, judged) if config.resumes else Start()
    if judged and start.loaded is not None and is_finished(start.loaded.state, config):
        reporter.note(f"this run is finished: {folder}")
        return _result(folder)
    images = open_sources(config, given, device)
    prepared = prepare(
        config, images.info, device, model, images, reporter.note if config.trace else None
    )
    with tracking(
        config.track if first else (), folder, dict(flat(recipe(config.to_toml())))
    ) as trackers:
        for name, tracker in trackers.items():
            plan = prepared.plan.with_trainer(
                name, tracker, PlanRow("trainer", name, version(name), {})
            )
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
                found = {
                    f"test_{name}": record[name]
                    for name in ACCURACIES
                    if record.get(name) is not None
                }
                trainer.tell({"epoch": trainer.epochs_ended, **found})
    if first:
        write_report(folder)
    distributed.first_says(None)  # the others wait until everything is written
    reporter.closing(folder, images.info.note)
    return _result(folder) if config.eval != "none" else Result(folder)


def _validate(config: RunConfig, images: Data, network: nn.Module) -> tuple[float, float]:
    """Clean and robust accuracy on the held-out images."""
    assert images.val is not None
    clean, robust = pgd_verdicts(
        network,
        images.val,
        config.threat_model,
        steps=VALIDATION_STEPS,
        seed=config.seed,
        batch_size=max(config.batch_size, EVAL_BATCH_AT_LEAST),
    )
    return float(clean.double().mean()), float(robust.double().mean())


def _describe(
    config: RunConfig, plan: Plan, folder: Path, device: torch.device, start: Start
) -> None:
    """What the run is and where it runs, into its folder."""
    write_run_toml(folder, config)
    record = environment(device, {row.provider: row.version for row in plan.rows if row.version})
    record["files"] = {
        plugin.name: str(plugin.file) for plugin in discovery.load_all(config.plugin) if plugin.file
    }
    record["resumed"] = [*resumptions(folder), *(["; ".join(start.told())] if start.told() else [])]
    with disk(folder):
        write_text(folder / ENVIRONMENT, json.dumps(record, indent=2) + "\n")
        write_text(
            folder / "plan.json",
            json.dumps([asdict(row) for row in plan.rows], indent=2, default=str) + "\n",
        )


def _trained(
    config: RunConfig,
    prepared: Prepared,
    images: Data,
    folder: Path,
    reporter: Reporter,
    start: Start,
) -> Trainer:
    """Train to the end, from a checkpoint where the run resumes."""
    info = images.info
    facts = {
        "backbone": config.backbone if ":" not in config.backbone else "factory",
        "num_classes": info.num_classes,
        "channels": info.channels,
        "image_size": info.image_size,
        **({"class_names": info.class_names} if info.class_names else {}),
    }
    training = Training(
        config,
        prepared.net,
        prepared.plan,
        images,
        folder,
        facts,
        prepared.random,
        partial(_validate, config, images),
    )
    trainer = Trainer(training)
    if start.loaded is not None:
        with fitting(start.loaded):
            trainer.restore(start.loaded)
    lost = (
        ["the best weights so far are lost: the best are chosen anew"]
        if trainer.epochs_ended and not trainer.best
        else []
    )
    for text in [*start.told(), *lost]:
        reporter.note(text)
    with reporter.training(trainer.steps, trainer.done):
        trainer.fit(reporter)
    return trainer


def _judge(
    config: RunConfig,
    plan: Plan,
    trainer: Trainer,
    images: Data,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
) -> dict[str, Any]:
    """Look at the test set, with the best weights."""
    model = load_weights(folder, trainer.judged).to(device)
    with stopped_at_once(folder), reporter.judging() as progress:
        verdict = evaluate(
            model,
            images.test,
            config.threat_model,
            ladder=cast(Ladder, config.eval),
            seed=config.seed,
            batch_size=EVAL_BATCH,
            device=device,
            num_classes=images.info.num_classes,
            progress=progress,
            state=folder / STATE,
            training=training_of(config, model, images),
            adaptive=plan.adaptive,
        )
    told = facts(str(folder), model, images.info, config.threat_model, config.seed)
    record = {**verdict.to_json(), **told, **selection(images, folder, int(trainer.best["epoch"]))}
    return write_record(folder, record) if distributed.rank() == 0 else record


def _is_judged(config: RunConfig, folder: Path) -> bool:
    """Is there an evaluation that goes as far as this configuration asks for?"""
    ladder = read_record(folder).get("ladder")
    return config.eval == "none" or (
        ladder in LADDERS and LADDERS.index(ladder) >= LADDERS.index(config.eval)
    )


def _result(folder: Path) -> Result:
    record = read_record(folder)
    names = (*ACCURACIES, "verdict")
    return Result(folder, **{name: record.get(name) for name in names}, n=record.get("n", 0))
