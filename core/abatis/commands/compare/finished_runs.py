"""The finished runs of a comparison: reads their folders, and checks that they are comparable."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abatis.commands.compare.methods import PLAIN
from abatis.config.discovery import get_plugin_name
from abatis.config.option_sets import FREE_IN_COMPARISON
from abatis.config.toml import flatten, read_toml
from abatis.errors import UsageError
from abatis.report.eval_record import check_files, read_record
from abatis.report.json_part import Part
from abatis.report.sealed_json import parse_json

MUST_AGREE = {
    "data": "--data",
    "n": "--subset",
    "threat": "--threat",
    "ladder": "--ladder",
}
"""What all evaluations must have in common, and the option of ``defense eval`` that sets it."""


@dataclass(frozen=True)
class JudgedRun:
    """One evaluated run.

    Args:
        method: The name of its method.
        folder: The folder of the evaluation.
        home: The run folder, or whatever else was evaluated.
        record: The contents of eval.json.
        settings: The options of run.toml by their dotted names.
        seconds: Training time, if it was recorded.
        memory: Peak memory in MB, if it was recorded.
    """

    method: str
    folder: Path
    home: Path
    record: Mapping[str, Any]
    settings: Mapping[str, Any]
    seconds: float | None
    memory: float | None

    @property
    def seed(self) -> int | None:
        """The training seed; None if it is not known."""
        return self.settings.get("seed")


@dataclass(frozen=True)
class FailedRun:
    """A run that failed, and why."""

    method: str
    seed: int
    folder: Path
    why: str


def read_run(folder: Path, method: str = "") -> JudgedRun:
    """Read a run folder or the folder of a single evaluation; raises UsageError."""
    record = read_record(folder)
    if "clean_acc" not in record:
        raise UsageError(
            f"no evaluation in {folder}", fix=f"defense eval {shlex.quote(str(folder))}"
        )
    check_files(folder, record)
    home = folder if (folder / "run.toml").exists() else Path(record.get("model") or folder)
    path = home / "run.toml"
    settings = dict(flatten(read_toml(path))) if path.exists() else {}
    last = _last_row(home / "metrics.jsonl")
    return JudgedRun(
        method, folder, home, record, settings, last.get("seconds"), last.get("peak_memory_mb")
    )


def _last_row(path: Path) -> Mapping[str, float | None]:
    """The metrics of the last epoch; its seconds count from the start of the training."""
    try:
        rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        last = parse_json(rows[-1]) if rows else {}
    except (OSError, ValueError):  # cut off by a crash
        return {}
    return {key: Part(last)[key].number for key in ("seconds", "peak_memory_mb")}


def read_runs(folders: Sequence[Path]) -> list[JudgedRun]:
    """Read the runs and name their methods; runs that differ only in their seed are one method.

    A method is named after its plugins. If two methods would have the same name, each is named
    after its first folder.

    Raises:
        UsageError: A folder has no evaluation, or two folders hold the same run.
    """
    runs = [
        read_run(folder) for folder in {folder.resolve(): folder for folder in folders}.values()
    ]
    keys = [_key(run) for run in runs]
    first: dict[str, JudgedRun] = {}
    trained: dict[tuple[str, int | None], Path] = {}
    for key, run in zip(keys, runs, strict=True):
        first.setdefault(key, run)
        if (twin := trained.setdefault((key, run.seed), run.folder)) != run.folder:
            raise UsageError(
                f"{twin} and {run.folder} are the same run twice: same options, same seed",
                fix="give only one of them",
            )
    names = {key: _name_method(run) for key, run in first.items()}
    counts = Counter(names.values())
    unique = {
        key: first[key].folder.name if counts[name] > 1 else name for key, name in names.items()
    }
    if len({*unique.values()}) < len(unique):  # the folders have the same name, too
        unique = {key: str(run.folder) for key, run in first.items()}
    return [replace(run, method=unique[key]) for key, run in zip(keys, runs, strict=True)]


def _key(run: JudgedRun) -> str:
    """A text that is equal for runs of one method: all options that matter, without the seed."""
    if not run.settings:
        return str(run.folder.resolve())
    left_out = FREE_IN_COMPARISON | {"seed"}
    kept = {key: value for key, value in run.settings.items() if key not in left_out}
    return json.dumps(kept, sort_keys=True)


def _name_method(run: JudgedRun) -> str:
    if not run.settings:
        return run.folder.name
    clean = run.settings.get("use.attacker") == "none"
    return "+".join(get_plugin_name(plugin) for plugin in run.settings.get("plugin", ())) or (
        "standard" if clean else PLAIN
    )


def check_alike(runs: Sequence[JudgedRun]) -> None:
    """Check that the evaluations can be compared.

    Data, number of images, threat and ladder must agree, and so must the seed of the attacks. A run
    that was evaluated with its own training seed, as runs are, may differ in that seed.

    Raises:
        UsageError: They do not agree; the fix is a command that evaluates the odd one again.
    """
    differing = [key for key in MUST_AGREE if len({run.record.get(key) for run in runs}) > 1]
    own = [run for run in runs if run.settings and run.record.get("seed") == run.seed]
    other = [run for run in runs if run not in own]
    seeds = {run.record.get("seed") for run in other}
    if len(seeds) > 1 or (own and not seeds <= {run.seed for run in own}):
        differing.append("seed")
    if not differing:
        _check_points(runs)
        return
    # an old record may lack a setting: then it is the one to evaluate again
    model = next(
        (
            run
            for run in (*own, *other)
            if all(run.record.get(key) is not None for key in differing)
        ),
        runs[0],
    )
    wanted = {key: model.record.get(key) for key in differing}
    flags = " ".join(
        f"{MUST_AGREE.get(key, '--seed')} {value}"
        for key, value in wanted.items()
        if value is not None
    )
    odd = [
        run
        for run in runs
        if any(
            run.record.get(key) != value and (key in MUST_AGREE or run in other)
            for key, value in wanted.items()
        )
    ]
    others = f", the same for {', '.join(str(run.home) for run in odd[1:])}" if odd[1:] else ""
    raise UsageError(
        f"not evaluated in the same way: {'; '.join(_values(runs, key) for key in differing)}",
        fix=f"defense eval {odd[0].home} {flags}{others}; then compare the folders it writes",
    )


def _check_points(runs: Sequence[JudgedRun]) -> None:
    """Raise UsageError where as many, but other images were judged.

    Records of earlier versions do not say which images; see
    :func:`abatis.commands.compare.ranking.collect_notes`.
    """
    found: dict[str, Path] = {}
    for run in runs:
        if (points := run.record.get("points_sha256")) is not None:
            found.setdefault(points, run.folder)
    if len(found) > 1:
        raise UsageError(
            f"not evaluated on the same images: {' and '.join(map(str, found.values()))}",
            where=f"{runs[0].record.get('n')} images of {runs[0].record.get('data')} each",
            fix="evaluate them again on the same files, with the same --subset or --points",
        )


def _values(runs: Sequence[JudgedRun], key: str) -> str:
    """``ladder quick (one, two), standard (three)``."""
    found: dict[object, list[str]] = {}
    for run in runs:
        found.setdefault(run.record.get(key), []).append(str(run.folder))
    return f"{key} " + ", ".join(
        f"{'unknown' if value is None else value} ({', '.join(folders)})"
        for value, folders in found.items()
    )


def refuse_failed(runs: Sequence[JudgedRun]) -> None:
    """Raise UsageError where the masking verdict of a run is FAIL."""
    named = ", ".join(str(run.folder) for run in runs if run.record.get("verdict") == "FAIL")
    if named:
        raise UsageError(
            f"verdict FAIL, so the robust accuracy cannot be trusted: {named}",
            fix="leave them out, or show them without a rank with --allow-fail",
        )
