"""One run once its options are checked: open the data, prepare, train, judge, report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from abatis.config import discovery
from abatis.config.ladders import LADDERS, Ladder
from abatis.config.run_config import RunConfig
from abatis.config.toml import flatten, read_toml
from abatis.data import Data
from abatis.data.order import choose_some
from abatis.evaluate import EvaluationRequest, judge_with_pgd
from abatis.evaluate.record import describe_choice, describe_evaluation
from abatis.evaluate.several_threats import ask_each, evaluate_all
from abatis.report.eval_record import check_files, list_threats, read_record, write_record
from abatis.report.numbers import list_measured
from abatis.report.run_report import write_report
from abatis.runs.ending import note_ending
from abatis.runs.forecast import EVAL_BATCH, add_forecast
from abatis.runs.held_out import check_not_trained_on, write_held_out
from abatis.runs.open_data import check_classes, open_run_data
from abatis.runs.own_run import (
    describe_plugins,
    describe_selection,
    describe_training,
    describe_weights,
)
from abatis.runs.prepare import Prepared, prepare
from abatis.runs.rebuild import describe_run_origin
from abatis.runs.result import Result, read_result
from abatis.runs.run import Job, go_on_from
from abatis.runs.run_folder import (
    check_weights,
    load_into_network,
    portable_options,
    write_run_toml,
)
from abatis.system import distributed
from abatis.system.environment import ENVIRONMENT, collect_environment, read_resumptions
from abatis.system.files import explain_disk_errors, write_text
from abatis.system.signals import stop_at_once
from abatis.train.checkpoint import CHECKPOINTS, set_aside
from abatis.train.code_digests import digest_code
from abatis.train.continuation import Source, find_source
from abatis.train.plan import Plan
from abatis.train.resume import (
    Start,
    check_content,
    check_fit,
    describe_content,
    describe_early_stop,
    find_start,
    is_finished,
)
from abatis.train.trackers import open_trackers
from abatis.train.trainer import Trainer
from abatis.train.training import Training

VALIDATION_STEPS = 10
VALIDATION_BATCH_AT_LEAST = 64  # images at a time in a validation


def train_and_judge(job: Job) -> Result:
    """Train the network of a run, judge it, and write its report."""
    job = _with_layout(job, _read_layout(job))
    config, first = job.config, distributed.rank() == 0
    judged = _is_judged(job)
    code = digest_code(config, job.model)
    start = Start()
    if config.resumes:
        start = find_start(config, job.folder, job.device, judged, code)
    if judged and start.loaded is not None and is_finished(start.loaded.state, config):
        state = start.loaded.state
        if first:
            check_weights(job.folder, state["best_files"])
            check_files(job.folder, read_record(job.folder))
        job.reporter.note(f"this run is already finished: {job.folder}")
        _note_early_stop(job, state["epochs_ended"], state["best"])
        return read_result(job.folder)
    source = find_source(config) if start.loaded is None else None
    images = open_run_data(config, job.data, job.device)
    content = describe_content(config, images, start)
    start = check_content(start, content, config)
    if source is not None:
        check_classes(config, images.info)
        check_not_trained_on(config, source.run, images)
    prepared = prepare(config, images.info, job.device, job.model, images, job.say)
    job = _with_layout(job, prepared.net.layout)
    config = job.config
    prepared = add_forecast(config, prepared, len(images.train))
    prepared = go_on_from(source, start, prepared)
    options = dict(flatten(portable_options(config.to_toml())))
    with (
        note_ending(job.folder) if first else nullcontext(),
        open_trackers(config.track if first else (), job.folder, options) as trackers,
    ):
        prepared = prepared.with_trackers(trackers)
        if first:
            set_aside(job.folder / CHECKPOINTS, start.rejected)
            _describe_run(job, prepared, start, code)
            write_held_out(job.folder, images)
        job.reporter.plan(prepared.plan.rows, prepared.notes, config)
        trainer = Trainer(_describe_training(job, prepared, images, code, content))
        _train(job, trainer, start, source)
        if config.ladder != "none":
            record = _judge(job, prepared.plan, trainer, images)
            job.reporter.evaluation(record)
            if first:
                _tell_trackers(trainer, record)
    if first:
        write_report(job.folder)
    distributed.first_says(None)  # the others wait until everything is written
    _note_early_stop(job, trainer.progress.epochs_ended, trainer.progress.best)
    job.reporter.closing(job.folder, images.info.note)
    return read_result(job.folder) if config.ladder != "none" else Result(job.folder)


def _with_layout(job: Job, layout: str) -> Job:
    """The job with the layout that its passes use, which ``run.toml`` and checkpoints record."""
    if job.config.layout != "auto":
        return job
    return replace(job, config=job.config.model_copy(update={"layout": layout}))


def _read_layout(job: Job) -> str:
    """The layout that an earlier start of this run has chosen; "auto" where there was none."""
    written = job.folder / "run.toml"
    return str(read_toml(written).get("layout", "auto")) if written.is_file() else "auto"


def _note_early_stop(job: Job, epochs_ended: int, best: Mapping[str, float]) -> None:
    """Say that early stopping ended this run, where it did."""
    if text := describe_early_stop(epochs_ended, best, job.config):
        job.reporter.note(f"note: {text}")


def _is_judged(job: Job) -> bool:
    """Is there an evaluation that goes as far as this configuration asks for?"""
    wanted, record = job.config.ladder, read_record(job.folder)
    if wanted == "none":
        return True
    done = record.get("ladder")
    if done not in LADDERS or LADDERS.index(done) < LADDERS.index(wanted):
        return False
    if record.get("seed") != job.config.seed:
        return False
    subset = job.config.subset
    if "points" in record and (subset is None or record["n"] < subset):
        return False
    if wanted == "clean":
        return True
    return list_threats(record) == [str(threat) for threat in job.config.judged_threats]


def _describe_run(job: Job, prepared: Prepared, start: Start, code: Mapping[str, str]) -> None:
    """Write what the run is and where it runs into its folder."""
    config, folder = job.config, job.folder
    write_run_toml(folder, config)
    versions = {row.provider: row.version for row in prepared.plan.rows if row.version}
    record = collect_environment(job.device, versions)
    plugins = discovery.load_plugins(config.plugin)
    record["files"] = {plugin.name: str(plugin.file) for plugin in plugins if plugin.file}
    record["code"] = dict(code)
    resumed = "; ".join(start.describe())
    record["resumed"] = [*read_resumptions(folder), *([resumed] if resumed else [])]
    if prepared.continues:
        record["continues"] = dict(prepared.continues)
    rows = [asdict(row) for row in prepared.plan.rows]
    with explain_disk_errors(folder):
        write_text(folder / ENVIRONMENT, json.dumps(record, indent=2) + "\n")
        write_text(folder / "plan.json", json.dumps(rows, indent=2, default=str) + "\n")


def _describe_training(
    job: Job,
    prepared: Prepared,
    images: Data,
    code: Mapping[str, str],
    content: Mapping[str, str],
) -> Training:
    return Training(
        job.config,
        prepared.net,
        prepared.plan,
        images,
        job.folder,
        describe_weights(job.config, images.info, prepared.net.module, prepared.plan.run.networks),
        prepared.random,
        partial(_validate, job.config, images),
        code,
        content,
        prepared.continues,
    )


def _validate(config: RunConfig, images: Data, network: nn.Module) -> tuple[float, float]:
    """Clean and robust accuracy on the held-out images."""
    assert images.val is not None
    judged = [
        judge_with_pgd(
            network,
            images.val,
            threat,
            steps=VALIDATION_STEPS,
            seed=config.seed,
            batch_size=max(config.batch_size, VALIDATION_BATCH_AT_LEAST),
        )
        for threat in config.trained_threats
    ]
    robust = torch.stack([held for _, held in judged]).all(0)  # under every threat, by point
    return float(judged[0][0].double().mean()), float(robust.double().mean())


def _train(job: Job, trainer: Trainer, start: Start, source: Source | None) -> None:
    """Train to the end, from a checkpoint where the run resumes or goes on from another one."""
    if start.loaded is not None:
        with check_fit(start.loaded):
            trainer.restore(start.loaded)
    elif source is not None:
        with check_fit(source.loaded):
            trainer.take_over(source)
        job.reporter.note(f"goes on from {source.run} after epoch {source.epochs_ended}")
    for text in start.describe():
        job.reporter.note(text)
    own = trainer.progress.epochs_ended - trainer.training.continues.get("epoch", 0)
    if own and not trainer.progress.best:
        job.reporter.note(
            "the best weights so far are missing or damaged; best-epoch selection starts over"
        )
    with job.reporter.training(trainer.training.steps, trainer.progress.step):
        trainer.fit(job.reporter)


def _judge(job: Job, plan: Plan, trainer: Trainer, images: Data) -> dict[str, Any]:
    """Evaluate the best weights on the test set; returns what eval.json holds."""
    config, folder = job.config, job.folder
    model = load_into_network(folder, trainer.judged).to(job.device)
    points = choose_some(images.test, config.subset)
    with stop_at_once(folder), job.reporter.judging() as progress:
        request = EvaluationRequest(
            points,
            config.threat_model,
            ladder=cast(Ladder, config.ladder),
            seed=config.seed,
            batch_size=EVAL_BATCH,
            device=job.device,
            num_classes=images.info.num_classes,
            progress=progress,
            training=describe_training(config, model, images),
            adaptive=plan.adaptive,
            plugins=describe_plugins(plan.rows),
            origin=None
            if job.model is not None
            else describe_run_origin(folder, images.info, model),
        )
        numbers = evaluate_all(model, ask_each(request, config.judged_threats, folder))
    threat = None if config.ladder == "clean" else config.threat_model
    record = {
        **numbers,
        **describe_evaluation(str(folder), model, images.info, points, threat, config.seed),
        **describe_choice(points, images.test),
        **describe_selection(images, folder, int(trainer.progress.best["epoch"])),
    }
    return write_record(folder, record) if distributed.rank() == 0 else record


def _tell_trackers(trainer: Trainer, record: dict[str, Any]) -> None:
    """Give the numbers of the evaluation to the trackers, as ``test_...``."""
    measured = {f"test_{number.key}": record[number.key] for number in list_measured(record)}
    trainer.tell({"epoch": trainer.progress.epochs_ended, **measured})
