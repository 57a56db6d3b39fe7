"""``defense eval MODEL``: judge any model on any data, and say how far the number can be trusted."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from abatis.api.randomness import untouched
from abatis.api.threat import Threat
from abatis.data import Data, open_data
from abatis.errors import UsageError
from abatis.evaluate import evaluate
from abatis.evaluate.judge import First
from abatis.evaluate.record import facts
from abatis.nets.backbones import view_of
from abatis.report.eval_record import STATE, check_replaceable, read_record, write_record
from abatis.report.run_report import write_report
from abatis.report.terminal import Reporter
from abatis.runs.model_spec import ModelSpec, find_model
from abatis.runs.own_run import training_of
from abatis.runs.prepare import prepare
from abatis.system import distributed
from abatis.system.device import pick_device
from abatis.system.files import explain_disk_errors
from abatis.system.signals import stop_at_once


def judge_model(asked: argparse.Namespace, line: str) -> str:
    """Evaluate, write the record and the report, show them; returns the verdict. line: the command as it was typed."""
    with distributed.connect(), untouched():
        return _judge(asked, line)


def _judge(asked: argparse.Namespace, line: str) -> str:
    reporter = Reporter(asked.quiet or distributed.rank() > 0)
    subject, device = (
        find_model(asked.model, asked.backbone, asked.allow_pickle),
        pick_device(asked.device),
    )
    images = _data(asked, subject, device)
    threat = Threat.parse(asked.threat or subject.threat or "Linf:8/255")
    folder = asked.out or _folder(asked, subject, images.info.name, str(threat))
    check_replaceable(folder, asked.ladder)
    module, notes = subject.module(images.info, device)
    for note in notes:
        reporter.note(f"note: {note}")
    split = images.test if asked.subset is None else First(images.test, asked.subset)
    seed = subject.run.seed if subject.run else asked.seed
    known = _of_run(subject, module, images, device) if _same_data(asked, subject) else {}
    with explain_disk_errors(folder):  # before hours of attacks
        folder.mkdir(parents=True, exist_ok=True)
    with (
        stop_at_once(folder, "the same command goes on from here"),
        reporter.judging() as progress,
    ):
        found = evaluate(
            module,
            split,
            threat,
            ladder=asked.ladder,
            seed=seed,
            batch_size=asked.batch_size,
            device=device,
            num_classes=images.info.num_classes,
            progress=progress,
            state=folder / STATE,
            square_bf16=asked.square_bf16,
            **known,
        )
    if distributed.rank() == 0:
        told = {**facts(asked.model, module, images.info, threat, seed), "command": line}
        record = write_record(folder, {**found.to_json(), **told, **_selection(subject)})
        reporter.evaluation(record)
        write_report(folder)
        reporter.closing(folder, images.info.note)
    return found.verdict


def _data(asked: argparse.Namespace, subject: ModelSpec, device: Any) -> Data:

    run = subject.run
    view = view_of(run.backbone if run is not None else subject.backbone or subject.spec)
    if run is not None and _same_data(asked, subject):
        return open_data(
            run.data,
            data_dir=run.data_dir,
            limit=run.limit,
            image_size=run.image_size,
            augment=run.augment,
            device=device,
            workers=run.workers,
            skip_broken=run.skip_broken,
            view=view,
        )
    if asked.data is None:
        raise UsageError(
            f"which data shall {asked.model} be judged on?",
            fix="add --data cifar10, npz:PATH, folder:PATH, ...",
        )
    return open_data(
        asked.data,
        data_dir=asked.data_dir,
        limit=None,
        image_size=asked.image_size,
        augment="none",
        device=device,
        workers=0,
        skip_broken=asked.skip_broken,
        view=view,
    )


def _same_data(asked: argparse.Namespace, subject: ModelSpec) -> bool:
    """Is the run judged on the data it was trained on?"""
    return subject.run is not None and asked.data in (None, subject.run.data)


def _folder(asked: argparse.Namespace, subject: ModelSpec, data: str, threat: str) -> Path:
    """The run folder for the run's own question, else one that names the question."""
    run = subject.run
    if (
        run is not None
        and _same_data(asked, subject)
        and threat == run.threat
        and asked.subset is None
    ):
        return subject.path
    parts = [
        subject.path.name or subject.spec,
        Path(data).stem,
        threat,
        *([f"first{asked.subset}"] if asked.subset else []),
    ]
    return Path("evals") / "-".join(
        re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-") for part in parts
    )


def _of_run(subject: ModelSpec, module: Any, images: Data, device: Any) -> dict[str, Any]:
    """What only a run's own evaluation has: its training images and its plugins' adaptive attacks."""

    if subject.run is None:
        return {}
    config = subject.run.model_copy(update={"init": None})  # its weights are those to be judged
    plan = prepare(config, images.info, device, module).plan
    return {"training": training_of(subject.run, module, images), "adaptive": plan.adaptive}


def _selection(subject: ModelSpec) -> dict[str, Any]:
    """How the weights of a run were chosen, as its own evaluation said."""

    before = read_record(subject.path) if subject.run is not None else {}
    return {
        key: before[key] for key in ("weights", "selected_at_epoch", "selected_on") if key in before
    }
