"""The networks of a comparison: judged where they have no evaluation, and their images swapped."""

from __future__ import annotations

import argparse
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abatis.api.threat import Threat
from abatis.commands.compare.finished_runs import JudgedRun
from abatis.commands.compare.methods import choose_out
from abatis.commands.compare.options import Asked, make_parser
from abatis.commands.eval.judge_model import TRIED, judge_model, open_images, read_wishes
from abatis.commands.eval.points import choose_points
from abatis.data.digest import digest_split
from abatis.errors import UsageError
from abatis.evaluate.transfer import measure_transfer
from abatis.report.eval_record import list_threats, read_record
from abatis.report.terminal import Reporter
from abatis.runs.model_spec import find_model
from abatis.runs.open_model import open_model
from abatis.system.device import pick_device
from abatis.system.secrets import mask_words

BESIDE = ("methods", "seeds", "baseline", "out", "allow_fail", "models", "transfer", "help")
"""Options of compare that say nothing about an evaluation."""

NOT_OURS = {"backbone": None, "strict": False, "quiet": False}
"""Options of ``defense eval`` that compare has not."""


@dataclass(frozen=True)
class Evaluated:
    """A network as it was named, and the folder of its evaluation."""

    word: str
    folder: Path


def find_evaluations(asked: Asked) -> list[Evaluated]:
    """Return the evaluation of each network; those that have none are judged.

    A folder's own evaluation is taken where it is what the options ask for.

    Raises:
        AbatisError: whatever ``defense eval`` raises.
    """
    options = complete_options(asked)
    taken: Counter[str] = Counter()
    found = []
    for word in asked.models:
        record = _read_own(word)
        if record is not None and _fits(record, asked.options):
            found.append(Evaluated(word, Path(word)))
            continue
        if Path(word).is_dir() and not _list_given(asked.options):
            found.append(Evaluated(word, Path(word)))  # read_runs says what it lacks
            continue
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", word).strip("-.") or "network"
        taken[name] += 1
        name = name if taken[name] == 1 else f"{name}-{taken[name]}"
        folder = _choose_out(asked, options) / "evals" / name
        _judge(word, options, folder)
        found.append(Evaluated(word, folder))
    return found


def _choose_out(asked: Asked, options: argparse.Namespace) -> Path:
    out: Path = asked.options.out or choose_out(str(options.data or "data"))
    return out


def complete_options(asked: Asked) -> argparse.Namespace:
    """The options, where they are not given as in the first folder with an evaluation."""
    options = copy(asked.options)
    given = _list_given(asked.options)
    records = (_read_own(word) for word in asked.models)
    first: Mapping[str, Any] = next((one for one in records if one is not None), {})
    if not first:
        return options
    known = {
        "data": first.get("data"),
        "threat": list_threats(first),
        "ladder": first.get("ladder"),
        "seed": first.get("seed"),
    }
    if "points" in first and "points" not in given and "points_file" not in first:
        known["subset"] = first["n"]
    for key, value in known.items():
        if key not in given and value is not None:
            setattr(options, key, value)
    return options


def _read_own(word: str) -> Mapping[str, Any] | None:
    """The evaluation in a folder; None where the word is no such folder."""
    record = read_record(Path(word)) if Path(word).is_dir() else {}
    return record if "clean_acc" in record else None


def _list_given(options: argparse.Namespace) -> dict[str, object]:
    """The options about an evaluation that differ from their defaults."""
    defaults = vars(make_parser("defense compare").parse_args([]))
    return {
        key: value
        for key, value in vars(options).items()
        if key in defaults and key not in BESIDE and value != defaults[key]
    }


def _fits(record: Mapping[str, Any], options: argparse.Namespace) -> bool:
    """Is an evaluation what the options ask for, as far as they do?"""
    found = {
        "data": record.get("data"),
        "threat": [str(Threat.parse(text)) for text in list_threats(record)],
        "ladder": record.get("ladder"),
        "subset": record.get("n"),
    }
    given = _list_given(options)
    if "threat" in given:
        given["threat"] = [str(Threat.parse(text)) for text in options.threat]
    if {"points", "also", "corruptions", "square_bf16"} & given.keys():
        return False
    return all(found[key] == given[key] for key in found.keys() & given.keys())


def _judge(word: str, options: argparse.Namespace, folder: Path) -> None:
    """Judge a network as ``defense eval`` does, and write the evaluation into a folder."""
    asked = _ask_about(word, options)
    asked.out = folder
    judge_model(asked, f"defense eval {shlex.join(mask_words(_spell(asked)))}")


def _ask_about(word: str, options: argparse.Namespace) -> argparse.Namespace:
    """The options of ``defense eval`` for a network: NETWORK, or NETWORK=WEIGHTS."""
    asked = copy(options)
    network, equals, weights = word.partition("=")
    split = bool(equals) and not Path(word).exists()
    asked.model, asked.weights = (network, weights) if split else (word, None)
    for key, value in NOT_OURS.items():
        setattr(asked, key, value)
    return asked


def _spell(asked: argparse.Namespace) -> list[str]:
    """The words of ``defense eval`` that repeat an evaluation."""
    words = [asked.model, *(["--weights", asked.weights] if asked.weights else [])]
    for key, value in _list_given(asked).items():
        flag = f"--{key.replace('_', '-')}"
        if key == "normalize" and isinstance(value, list):
            words += [flag, *value]
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [flag] if one is True else [flag, str(one)]
    return [*words, "--out", str(asked.out)]


def measure_networks(
    asked: Asked, evaluations: Sequence[Evaluated], runs: Sequence[JudgedRun]
) -> dict[str, object]:
    """Return how many images each network gets right of those that were made for each other.

    Args:
        asked: the options.
        evaluations: the networks.
        runs: their evaluations, without repetitions.

    Raises:
        UsageError: the networks cannot be opened, or were judged on other images.
    """
    options = complete_options(asked)
    words = {one.folder.resolve(): one.word for one in evaluations}
    device = pick_device(options.device)
    asked_about = [
        _ask_about(_name_network(words[run.folder.resolve()], run), options) for run in runs
    ]
    subjects = [
        find_model(one.model, None, weights=one.weights, wishes=read_wishes(one))
        for one in asked_about
    ]
    images = open_images(asked_about[0], subjects[0], device)
    points = choose_points(asked_about[0], images.test)
    _check_images(runs, digest_split(points))
    few = next(iter(images.test.eval_batches(TRIED))).x
    modules = {
        name: open_model(subject, images.info, device, few)[0]
        for name, subject in zip(name_networks(runs), subjects, strict=True)
    }
    threat = Threat.parse(str(runs[0].record["threat"]))
    with Reporter().judging() as progress:
        found = measure_transfer(
            modules, points, threat, options.seed, options.batch_size, progress
        )
    return {**found.to_json(), "threat": str(threat)}


def _name_network(word: str, run: JudgedRun) -> str:
    """The network behind a word, which may be the folder of an evaluation alone."""
    is_evaluation = Path(word).is_dir() and not (Path(word) / "run.toml").exists()
    if not is_evaluation or "clean_acc" not in read_record(Path(word)):
        return word
    if " --weights " in str(run.record.get("command", "")) or " --backbone " in str(
        run.record.get("command", "")
    ):
        raise UsageError(
            f"--transfer needs the network of {word}, not only its evaluation",
            fix="name it as NETWORK=WEIGHTS, such as models.py:net=mine.pth",
        )
    return str(run.record.get("model"))


def _check_images(runs: Sequence[JudgedRun], digest: str) -> None:
    """Raise UsageError where the transfer would see other images than the evaluations."""
    other = next(
        (run for run in runs if run.record.get("points_sha256") not in (None, digest)), None
    )
    if other is not None:
        raise UsageError(
            f"--transfer: {other.folder} was judged on other images",
            fix="give --data, and --subset or --points, as in its evaluation",
        )


def name_networks(runs: Sequence[JudgedRun]) -> list[str]:
    """A name for each run: its method, or its folder where methods have several runs."""
    counts = Counter(run.method for run in runs)
    names = [run.method if counts[run.method] == 1 else run.folder.name for run in runs]
    return names if len({*names}) == len(names) else [str(run.folder) for run in runs]
