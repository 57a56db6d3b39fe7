"""Evaluates any model on any data, and says how far the numbers can be trusted."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from abatis.api.randomness import untouched
from abatis.api.threat import Threat
from abatis.commands.eval.answered import describe_all, is_answered, note_answered
from abatis.commands.eval.choices import (
    choose_folder,
    choose_threats,
    is_same_data,
    open_corruptions,
)
from abatis.commands.eval.data_options import read_source
from abatis.commands.eval.options import DATA_DIR
from abatis.commands.eval.points import choose_points, describe_points
from abatis.data import Data, DataRequest, open_data
from abatis.errors import UsageError
from abatis.evaluate import EvaluationRequest
from abatis.evaluate.also.finding import find_attack
from abatis.evaluate.also.running import try_attacks
from abatis.evaluate.corruptions.judging import judge_corruptions
from abatis.evaluate.corruptions.sources import CorruptionSource
from abatis.evaluate.record import describe_evaluation
from abatis.evaluate.several_threats import ask_each, evaluate_all
from abatis.nets.label_map import read_label_map
from abatis.nets.layout import find_layout
from abatis.nets.normalising import read_normalize
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
from abatis.runs.own_images import describe_own_run, open_own_data
from abatis.runs.own_run import describe_data
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
        asked.model, asked.backbone, weights=asked.weights, wishes=read_wishes(asked)
    )
    threats = choose_threats(asked, subject)
    also = [find_attack(spec) for spec in asked.also]
    device = pick_device(asked.device)
    images = open_images(asked, subject, device)
    folder = asked.out or choose_folder(asked, subject, images.info.name, threats)
    corrupted = asked.corruptions is not None
    check_replaceable(folder, asked.ladder, [str(threat) for threat in threats], corrupted)
    if subject.run is not None:
        check_files(subject.path, read_record(subject.path))
    points = choose_points(asked, images)
    seed = subject.run.seed if subject.run else asked.seed
    few = next(iter(images.test.eval_batches(TRIED))).x
    corruptions = open_corruptions(asked, points, images.info, seed, device)
    module, notes, doubts = open_model(subject, images.info, device, few)
    for note in [*notes, *doubts]:
        reporter.note(f"note: {note}")
    try_attacks(also, module, threats[0], few[:TRIED_BY_OTHERS])
    request = EvaluationRequest(
        points,
        threats[0],
        ladder=asked.ladder,
        seed=seed,
        batch_size=asked.batch_size,
        device=device,
        num_classes=images.info.num_classes,
        also=also,
        square_bf16=asked.square_bf16,
        layout=find_layout(asked.layout),
        origin=describe_origin(subject, images.info, module),
        **_describe_history(asked, subject, module, images, threats[0], device),
    )
    requests = ask_each(request, threats, folder)
    question = describe_all(module, requests, corruptions) if asked.reuse else None
    if question is not None and is_answered(folder, question):
        reporter.note(f"{asked.model} was judged before: {folder}")
        return find_verdict(read_record(folder))
    numbers = _measure(module, requests, corruptions, folder, reporter)
    if distributed.rank() == 0:
        threat = None if asked.ladder == "clean" else threats[0]
        about = {
            **describe_evaluation(asked.model, module, images.info, points, threat, seed),
            **describe_points(asked, points, images.test),
            "command": line,
        }
        numbers["findings"] = [*cast(list[str], numbers["findings"]), *doubts]
        record = write_record(folder, {**numbers, **about, **_read_selection(subject)})
        if question is not None:
            note_answered(folder, question)
        reporter.evaluation(record)
        write_report(folder)
        reporter.closing(folder, images.info.note)
    return find_verdict(numbers)


def _measure(
    module: nn.Module,
    requests: list[EvaluationRequest],
    corruptions: CorruptionSource | None,
    folder: Path,
    reporter: Reporter,
) -> dict[str, object]:
    """Run the evaluation; whoever stops it can continue with the same command."""
    with explain_disk_errors(folder):  # before hours of attacks
        folder.mkdir(parents=True, exist_ok=True)
    with (
        stop_at_once(folder, "run the same command again to continue"),
        reporter.judging() as progress,
    ):
        requests = [replace(request, progress=progress) for request in requests]
        numbers = evaluate_all(module, requests)
        if corruptions is not None:
            numbers["corruptions"] = judge_corruptions(module, requests[0], corruptions, folder)
    return numbers


def read_wishes(asked: argparse.Namespace) -> Wishes:
    """How the network is to be opened."""
    return Wishes(
        asked.weights_key,
        asked.allow_pickle,
        read_normalize(asked.normalize) if asked.normalize else None,
        asked.output,
        read_label_map(asked.label_map) if asked.label_map else None,
        asked.zoo_dir,
    )


def open_images(asked: argparse.Namespace, subject: ModelSpec, device: Any) -> Data:
    """The data a model is evaluated on: those of ``--data``, else the run's own."""
    run = subject.run
    if run is not None and asked.data in (None, run.data):
        return open_own_data(
            subject,
            device,
            limit=asked.limit or run.limit,
            data_dir=run.data_dir if asked.data_dir == DATA_DIR else asked.data_dir,
            image_size=asked.image_size or run.image_size,
            skip_broken=run.skip_broken or asked.skip_broken,
            follow_links=run.follow_links or asked.follow_links,
            download=asked.download,
            source=read_source(asked, run.source),
        )
    if asked.data is None:
        raise UsageError(
            f"no data set given for {asked.model}",
            fix="add --data, such as cifar10, npz:PATH or folder:PATH",
        )
    request = DataRequest(
        asked.data,
        asked.data_dir,
        asked.limit,
        image_size=asked.image_size,
        augment="none",
        device=device,
        skip_broken=asked.skip_broken,
        view=subject.view,
        follow_links=asked.follow_links,
        class_names=subject.class_names,
        trains=False,
        source=read_source(asked),
        download=asked.download,
    )
    return open_data(request)


def _describe_history(
    asked: argparse.Namespace,
    subject: ModelSpec,
    module: nn.Module,
    images: Data,
    threat: Threat,
    device: torch.device,
) -> dict[str, Any]:
    """What is known of the training of the network."""
    if is_same_data(asked, subject):
        return describe_own_run(subject, module, images, device)
    return {"training": describe_data(images, threat, device)} if len(images.train) else {}


def _read_selection(subject: ModelSpec) -> dict[str, Any]:
    """How the weights of a run were selected, as the run recorded it."""
    before = read_record(subject.path) if subject.run is not None else {}
    return {
        key: before[key] for key in ("weights", "selected_at_epoch", "selected_on") if key in before
    }
