"""Evaluates any model on any data, and says how far the numbers can be trusted."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from abatis.api.randomness import untouched
from abatis.api.threat import Threat, refuse_twice
from abatis.commands.eval.options import MADE
from abatis.commands.eval.points import choose_points, describe_points
from abatis.data import Data, DataInfo, DataRequest, Split, open_data
from abatis.errors import UsageError
from abatis.evaluate import EvaluationRequest
from abatis.evaluate.also.finding import find_attack
from abatis.evaluate.also.running import try_attacks
from abatis.evaluate.corruptions.files import open_files
from abatis.evaluate.corruptions.judging import judge_corruptions
from abatis.evaluate.corruptions.sources import CorruptedHere, CorruptionSource
from abatis.evaluate.ladder_checks import check_ladder
from abatis.evaluate.record import describe_evaluation
from abatis.evaluate.several_threats import ask_each, evaluate_all
from abatis.nets.label_map import read_label_map
from abatis.nets.normalising import parse_statistics
from abatis.report.eval_record import (
    check_files,
    check_replaceable,
    find_verdict,
    read_record,
    write_record,
)
from abatis.report.run_report import write_report
from abatis.report.terminal import Reporter
from abatis.runs.model_spec import ModelSpec, Wishes, find_model
from abatis.runs.open_model import open_model
from abatis.runs.own_run import describe_data, describe_plugins, describe_training
from abatis.runs.prepare import prepare
from abatis.runs.rebuild import describe_origin
from abatis.system import distributed
from abatis.system.device import pick_device
from abatis.system.files import explain_disk_errors
from abatis.system.signals import stop_at_once

TRIED_BY_OTHERS = 2  # images on which the attacks of --also are tried
TRIED = 8  # images on which the network is tried before the evaluation


def judge_model(asked: argparse.Namespace, line: str) -> str | None:
    """Evaluate a model, write eval.json and report.html, and print the numbers.

    Args:
        asked: The parsed options.
        line: The command as it was typed, for the record.

    Returns:
        The masking verdict, the worst over all threats; None after the clean ladder.
    """
    with distributed.connect(asked.device), untouched():
        return _judge(asked, line)


def _judge(asked: argparse.Namespace, line: str) -> str | None:
    reporter = Reporter(asked.quiet or distributed.rank() > 0)
    subject = find_model(
        asked.model, asked.backbone, weights=asked.weights, wishes=_read_wishes(asked)
    )
    threats = _choose_threats(asked, subject)
    device = pick_device(asked.device)
    images = _open_data(asked, subject, device)
    folder = asked.out or _choose_folder(asked, subject, images.info.name, threats)
    check_replaceable(folder, asked.ladder, [str(threat) for threat in threats])
    if subject.run is not None:
        check_files(subject.path, read_record(subject.path))
    points = choose_points(asked, images.test)
    seed = subject.run.seed if subject.run else asked.seed
    few = next(iter(images.test.eval_batches(TRIED))).x
    corruptions = _open_corruptions(asked, points, images.info, seed, device)
    also = [find_attack(spec) for spec in asked.also]
    module, notes, doubts = open_model(subject, images.info, device, few)
    for note in [*notes, *doubts]:
        reporter.note(f"note: {note}")
    try_attacks(also, module, threats[0], few[:TRIED_BY_OTHERS])
    if _same_data(asked, subject):
        known = _prepare_run(subject, module, images, device)
    else:
        known = {"training": describe_data(images, threats[0], device)}
    with explain_disk_errors(folder):  # before hours of attacks
        folder.mkdir(parents=True, exist_ok=True)
    with (
        stop_at_once(folder, "run the same command again to continue"),
        reporter.judging() as progress,
    ):
        request = EvaluationRequest(
            points,
            threats[0],
            ladder=asked.ladder,
            seed=seed,
            batch_size=asked.batch_size,
            device=device,
            num_classes=images.info.num_classes,
            progress=progress,
            also=also,
            square_bf16=asked.square_bf16,
            origin=describe_origin(subject, images.info),
            **known,
        )
        numbers = evaluate_all(module, ask_each(request, threats, folder))
        if corruptions is not None:
            numbers["corruptions"] = judge_corruptions(module, request, corruptions, folder)
    if distributed.rank() == 0:
        about = {
            **describe_evaluation(
                asked.model, module, images.info, points, _name_threat(asked, threats), seed
            ),
            **describe_points(asked, points, images.test),
            "command": line,
        }
        numbers["findings"] = [*cast(list[str], numbers["findings"]), *doubts]
        record = write_record(folder, {**numbers, **about, **_read_selection(subject)})
        reporter.evaluation(record)
        write_report(folder)
        reporter.closing(folder, images.info.note)
    return find_verdict(numbers)


def _choose_threats(asked: argparse.Namespace, subject: ModelSpec) -> list[Threat]:
    """The threats to judge: those asked for, else the model's own.

    Raises:
        UsageError: the ladder cannot judge one of them, or an option has no effect with it.
    """
    if asked.ladder == "clean":
        for option, given in (
            ("--threat", asked.threat),
            ("--also", asked.also),
            ("--strict", asked.strict),
        ):
            if given:
                raise UsageError(
                    f"{option} has no effect with --ladder clean, which runs no attack",
                    fix=f"leave out {option}, or use another ladder",
                )
    own = subject.run.judged_threats if subject.run is not None else ()
    threats = [*map(Threat.parse, asked.threat), *([] if asked.threat else own)]
    threats = threats or [Threat.parse(subject.threat or "Linf:8/255")]
    refuse_twice(threats, "--threat")
    check_ladder(asked.ladder, threats)
    return threats


def _open_corruptions(
    asked: argparse.Namespace, points: Split, info: DataInfo, seed: int, device: torch.device
) -> CorruptionSource | None:
    """Where corrupted images come from; None where none are asked for."""
    if asked.corruptions is None:
        return None
    if asked.corruptions == MADE:
        return CorruptedHere(points, seed)
    return open_files(Path(asked.corruptions).expanduser(), points, info, device)


def _name_threat(asked: argparse.Namespace, threats: list[Threat]) -> Threat | None:
    """The threat of the record's own numbers; none where no attack runs."""
    return None if asked.ladder == "clean" else threats[0]


def _read_wishes(asked: argparse.Namespace) -> Wishes:
    """How the network is to be opened."""
    return Wishes(
        asked.weights_key,
        asked.allow_pickle,
        parse_statistics(asked.normalize) if asked.normalize else None,
        asked.output,
        read_label_map(asked.label_map) if asked.label_map else None,
        asked.zoo_dir,
    )


def _open_data(asked: argparse.Namespace, subject: ModelSpec, device: Any) -> Data:
    """The data a model is evaluated on: those of ``--data``, else the run's own."""
    run = subject.run
    view = subject.view
    if run is not None and _same_data(asked, subject):
        request = DataRequest.of(run, view, device).for_judging()
        return open_data(replace(request, class_names=subject.class_names))
    if asked.data is None:
        raise UsageError(
            f"no data set given for {asked.model}",
            fix="add --data, such as cifar10, npz:PATH or folder:PATH",
        )
    request = DataRequest(
        asked.data,
        asked.data_dir,
        image_size=asked.image_size,
        augment="none",
        device=device,
        skip_broken=asked.skip_broken,
        view=view,
        follow_links=asked.follow_links,
        class_names=subject.class_names,
    )
    return open_data(request)


def _same_data(asked: argparse.Namespace, subject: ModelSpec) -> bool:
    """Whether a run is evaluated on the data it was trained on."""
    return subject.run is not None and asked.data in (None, subject.run.data)


def _choose_folder(
    asked: argparse.Namespace, subject: ModelSpec, data: str, threats: list[Threat]
) -> Path:
    """The run folder if this repeats the run's own evaluation, else a folder below ``evals``."""
    run = subject.run
    if (
        run is not None
        and _same_data(asked, subject)
        and (asked.ladder == "clean" or [*run.judged_threats] == threats)
        and asked.subset is None
        and asked.points is None
    ):
        return subject.path
    parts = [
        subject.path.name or subject.spec,
        Path(data).stem,
        "clean" if asked.ladder == "clean" else "-".join(map(str, threats)),
        *([f"subset{asked.subset}"] if asked.subset else []),
        *([asked.points.stem] if asked.points else []),
    ]
    return Path("evals") / "-".join(
        re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-") for part in parts
    )


def _prepare_run(subject: ModelSpec, module: Any, images: Data, device: Any) -> dict[str, Any]:
    """What only a run has: its training images, and the adaptive attacks of its plugins."""
    if subject.run is None:
        return {}
    # its weights are loaded already
    config = subject.run.model_copy(update={"init": None, "continue_from": None})
    plan = prepare(config, images.info, device, module, changed=True).plan
    return {
        "training": describe_training(subject.run, module, images),
        "adaptive": plan.adaptive,
        "plugins": describe_plugins(plan.rows),
    }


def _read_selection(subject: ModelSpec) -> dict[str, Any]:
    """How the weights of a run were selected, as the run recorded it."""
    before = read_record(subject.path) if subject.run is not None else {}
    return {
        key: before[key] for key in ("weights", "selected_at_epoch", "selected_on") if key in before
    }
