"""What an evaluation is asked: threats, corrupted images, and the folder of its results."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch

from abatis.api.threat import Threat, refuse_twice
from abatis.commands.eval.data_options import read_source
from abatis.commands.eval.options import MADE
from abatis.data import DataInfo, Split
from abatis.errors import UsageError
from abatis.evaluate.corruptions.files import open_files
from abatis.evaluate.corruptions.sources import CorruptedHere, CorruptionSource
from abatis.evaluate.ladder_checks import check_ladder
from abatis.runs.model_spec import ModelSpec


def choose_threats(asked: argparse.Namespace, subject: ModelSpec) -> list[Threat]:
    """The threats to judge: those asked for, else the model's own.

    Raises:
        UsageError: the ladder cannot judge one of them, or an option has no effect with it.
    """
    if asked.ladder == "clean":
        for option, given in (
            ("--threat", asked.threat),
            ("--also", asked.also),
            ("--strict", asked.strict),
            ("--layout", asked.layout != "auto"),
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


def open_corruptions(
    asked: argparse.Namespace, points: Split, info: DataInfo, seed: int, device: torch.device
) -> CorruptionSource | None:
    """Where corrupted images come from; None where none are asked for."""
    if asked.corruptions is None:
        return None
    if asked.corruptions == MADE:
        return CorruptedHere(points, seed)
    return open_files(Path(asked.corruptions).expanduser(), points, info, device)


def choose_folder(
    asked: argparse.Namespace, subject: ModelSpec, data: str, threats: list[Threat]
) -> Path:
    """The run folder if this repeats the run's own evaluation, else a folder below ``evals``."""
    run = subject.run
    if (
        run is not None
        and is_same_data(asked, subject)
        and (asked.ladder == "clean" or [*run.judged_threats] == threats)
        and asked.limit in (None, run.limit)
        and asked.subset in (None, run.subset)
        and asked.points is None
    ):
        return subject.path
    parts = [
        subject.path.name or subject.spec,
        Path(data).stem,
        "clean" if asked.ladder == "clean" else "-".join(map(str, threats)),
        *([f"limit{asked.limit}"] if asked.limit else []),
        *([f"subset{asked.subset}"] if asked.subset else []),
        *([asked.points.stem] if asked.points else []),
    ]
    return Path("evals") / "-".join(
        re.sub(r"[^A-Za-z0-9_.]+", "-", part).strip("-") for part in parts
    )


def is_same_data(asked: argparse.Namespace, subject: ModelSpec) -> bool:
    """Whether a run is evaluated on the data it was trained on, read as in its training."""
    run = subject.run
    return (
        run is not None
        and asked.data in (None, run.data)
        and asked.image_size in (None, run.image_size)
        and read_source(asked, run.source) == run.source
    )
