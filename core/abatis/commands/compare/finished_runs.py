"""The runs of a comparison: reading their folders, and refusing what was not judged alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abatis.commands.compare.methods import PLAIN
from abatis.config.discovery import name_of
from abatis.config.toml import flat, read_toml
from abatis.errors import UsageError
from abatis.report.eval_record import read_record
from abatis.train.resume import FREE

ALIKE = {
    "data": "--data",
    "n": "--subset",
    "threat": "--threat",
    "ladder": "--ladder",
}  # and the option that asks for it
SAME = FREE | {"device"}  # not the epochs: a longer training is another budget


@dataclass(frozen=True)
class Judged:
    """One judged run: its evaluation, its flat run.toml, training seconds and peak memory in MB where they were recorded.

    folder: where the evaluation lies; home: the run's own folder, or whatever else was judged.
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
        """The training seed; None where nothing says it."""
        return self.settings.get("seed")


@dataclass(frozen=True)
class Failed:
    """A run that came to no result, and why."""

    method: str
    seed: int
    folder: Path
    why: str


def read_run(folder: Path, method: str = "") -> Judged:
    """A run folder, or the folder of an evaluation alone; raises UsageError."""
    record = read_record(folder)
    if "clean_acc" not in record:
        raise UsageError(f"no evaluation in {folder}", fix=f"defense eval {folder}")
    home = folder if (folder / "run.toml").exists() else Path(record.get("model") or folder)
    path = home / "run.toml"
    settings = dict(flat(read_toml(path))) if path.exists() else {}
    last = _last_row(home / "metrics.jsonl")
    return Judged(
        method, folder, home, record, settings, last.get("seconds"), last.get("peak_memory_mb")
    )


def _last_row(path: Path) -> Mapping[str, Any]:
    """The last epoch's metrics: seconds are those since the start of the training."""
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        last: Mapping[str, Any] = json.loads(rows[-1]) if rows else {}
    except ValueError:  # cut off by a crash
        return {}
    return last


def read_runs(folders: Sequence[Path]) -> list[Judged]:
    """Runs that differ only in their seed are one method; raises UsageError.

    A method has the name of its plugins; where two would have the same one, that of its first folder.
    """
    runs = [
        read_run(folder) for folder in {folder.resolve(): folder for folder in folders}.values()
    ]
    keys = [_key(run) for run in runs]
    first: dict[str, Judged] = {}
    trained: dict[tuple[str, int | None], Path] = {}
    for key, run in zip(keys, runs, strict=True):
        first.setdefault(key, run)
        if (twin := trained.setdefault((key, run.seed), run.folder)) != run.folder:
            raise UsageError(
                f"{twin} and {run.folder} are the same run twice: same options, same seed",
                fix="name one of them",
            )
    names = {key: _named(run) for key, run in first.items()}
    crowded = {name for name in names.values() if [*names.values()].count(name) > 1}
    unique = {
        key: first[key].folder.name if name in crowded else name for key, name in names.items()
    }
    if len({*unique.values()}) < len(unique):  # folders of the same name, too
        unique = {key: str(run.folder) for key, run in first.items()}
    return [replace(run, method=unique[key]) for key, run in zip(keys, runs, strict=True)]


def _key(run: Judged) -> str:
    """Everything that makes a training what it is, without its seed."""
    if not run.settings:
        return str(run.folder.resolve())
    return json.dumps(
        {key: value for key, value in run.settings.items() if key not in SAME | {"seed"}},
        sort_keys=True,
    )


def _named(run: Judged) -> str:
    if not run.settings:
        return run.folder.name
    clean = run.settings.get("use.attacker") == "none"
    return "+".join(name_of(plugin) for plugin in run.settings.get("plugin", ())) or (
        "standard" if clean else PLAIN
    )


def check_alike(runs: Sequence[Judged]) -> None:
    """Raise UsageError unless all were judged on the same data and points, against the same threat, by the same ladder.

    So with the seed of the attacks, but for runs that were judged with their own training seed, as runs are.
    """
    differing = [key for key in ALIKE if len({run.record.get(key) for run in runs}) > 1]
    own = [run for run in runs if run.settings and run.record.get("seed") == run.seed]
    other = [run for run in runs if run not in own]
    seeds = {run.record.get("seed") for run in other}
    if len(seeds) > 1 or (own and not seeds <= {run.seed for run in own}):
        differing.append("seed")
    if not differing:
        return
    # an old record may not know what it was judged with: then it is the one to be judged again
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
        f"{ALIKE.get(key, '--seed')} {value}" for key, value in wanted.items() if value is not None
    )
    odd = [
        run
        for run in runs
        if any(
            run.record.get(key) != value and (key in ALIKE or run in other)
            for key, value in wanted.items()
        )
    ]
    others = f", and so for {', '.join(str(run.home) for run in odd[1:])}" if odd[1:] else ""
    raise UsageError(
        f"not judged alike: {'; '.join(_values(runs, key) for key in differing)}",
        fix=f"defense eval {odd[0].home} {flags}{others}; then compare the folders it writes",
    )


def _values(runs: Sequence[Judged], key: str) -> str:
    """``ladder quick (one, two), standard (three)``."""
    found: dict[object, list[str]] = {}
    for run in runs:
        found.setdefault(run.record.get(key), []).append(str(run.folder))
    return f"{key} " + ", ".join(
        f"{'unknown' if value is None else value} ({', '.join(folders)})"
        for value, folders in found.items()
    )


def refuse_failed(runs: Sequence[Judged]) -> None:
    """Raise UsageError where the masking diagnostics failed a run: its robust accuracy cannot be trusted."""
    named = ", ".join(str(run.folder) for run in runs if run.record.get("verdict") == "FAIL")
    if named:
        raise UsageError(
            f"verdict FAIL, so the robust accuracy cannot be trusted: {named}",
            fix="leave them out, or show them with --allow-fail",
        )
