"""The networks of a comparison: judged where they have no evaluation, and their images swapped."""

from __future__ import annotations

import argparse
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from copy import copy
from pathlib import Path

from abatis.api.threat import Threat
from abatis.commands.compare.compare_runs import read_comparable, show_runs
from abatis.commands.compare.evaluations import (
    Evaluated,
    complete_options,
    find_known,
    list_given,
)
from abatis.commands.compare.finished_runs import JudgedRun
from abatis.commands.compare.methods import choose_out
from abatis.commands.compare.options import Asked
from abatis.commands.eval.judge_model import TRIED, judge_model, open_images, read_wishes
from abatis.commands.eval.points import choose_points
from abatis.data.digest import digest_split
from abatis.errors import UsageError
from abatis.evaluate.transfer import measure_transfer
from abatis.report.eval_record import read_record
from abatis.report.terminal import Reporter
from abatis.runs.model_spec import find_model
from abatis.runs.open_model import open_model
from abatis.system.device import pick_device
from abatis.system.secrets import mask_words

NOT_OURS = {"backbone": None, "strict": False, "quiet": False}
"""Options of ``defense eval`` that compare has not."""


def compare_networks(asked: Asked) -> int:
    """``defense compare MODEL ...``, where some are to be judged; returns the exit code."""
    evaluations = find_evaluations(asked)
    runs = read_comparable(asked, [one.folder for one in evaluations])
    transfer = measure_networks(asked, evaluations, runs) if asked.options.transfer else None
    show_runs(asked, runs, transfer)
    return 0


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
        known = find_known(word, asked.options)
        if known is not None:
            found.append(Evaluated(word, known))  # read_runs says what it may lack
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


def _judge(word: str, options: argparse.Namespace, folder: Path) -> None:
    """Judge a network as ``defense eval`` does, and write the evaluation into a folder."""
    asked = _ask_about(word, options)
    asked.out, asked.reuse = folder, True
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
    for key, value in list_given(asked).items():
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
    points = choose_points(asked_about[0], images)
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
