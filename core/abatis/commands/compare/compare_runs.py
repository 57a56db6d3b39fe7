"""Compares finished runs: ranks them, prints the table and writes the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from abatis.commands.compare.files import write_files
from abatis.commands.compare.finished_runs import (
    FailedRun,
    JudgedRun,
    check_alike,
    read_runs,
    refuse_failed,
)
from abatis.commands.compare.methods import PLAIN, choose_out, plugins_of
from abatis.commands.compare.options import Asked
from abatis.commands.compare.ranking import collect_notes, rank_methods
from abatis.commands.compare.tables import show
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError, did_you_mean
from abatis.report.console import SafeConsole


def compare_finished(asked: Asked) -> int:
    """``defense compare RUN ...``; returns the exit code."""
    show_runs(asked, read_comparable(asked, [Path(word) for word in asked.models]))
    return 0


def read_comparable(asked: Asked, folders: Sequence[Path]) -> list[JudgedRun]:
    """Read evaluations; raises UsageError where they cannot be compared."""
    runs = read_runs(folders)
    check_alike(runs)
    if not asked.options.allow_fail:
        refuse_failed(runs)
    return runs


def show_runs(
    asked: Asked, runs: Sequence[JudgedRun], transfer: Mapping[str, object] | None = None
) -> None:
    """Rank evaluations, print the table and write the files."""
    order = list(dict.fromkeys(run.method for run in runs))
    out = asked.options.out or choose_out(str(runs[0].record.get("data", "data")))
    baseline = find_baseline(asked.options.baseline, order)
    report(runs, [], order, baseline, [], out, SafeConsole(), transfer)


def find_baseline(name: str | None, order: Sequence[str]) -> str:
    """The method the others are compared with; raises UsageError."""
    if name is None:
        return PLAIN if PLAIN in order else order[0]
    found = (
        [name]
        if name in order
        else [method for method in order if plugins_of(method) == plugins_of(name)]
    )
    if not found:
        raise UsageError(
            f"the baseline '{name}' is not among the methods: {did_you_mean(name, order)}"
        )
    return found[0]


def report(
    runs: Sequence[JudgedRun],
    failed: Sequence[FailedRun],
    order: Sequence[str],
    baseline: str,
    more_notes: Sequence[str],
    out: Path,
    console: Console,
    transfer: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Rank the methods, print the table, write the files; returns the contents of compare.json."""
    compared = rank_methods(runs, failed, order, baseline)
    compared["notes"] = [*collect_notes(compared, runs, RunConfig.model_fields), *more_notes]
    if transfer is not None:
        compared["transfer"] = transfer
    endings = ",".join(path.suffix[1:] for path in write_files(compared, out))
    show(compared, console)
    console.print(
        f"wrote {out / 'compare'}.{{{endings}}}", markup=False, soft_wrap=not console.is_terminal
    )
    return compared
