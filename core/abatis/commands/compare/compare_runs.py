"""Compares finished runs: ranks, shows and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from abatis.commands.compare.files import write
from abatis.commands.compare.finished_runs import (
    Failed,
    Judged,
    check_alike,
    read_runs,
    refuse_failed,
)
from abatis.commands.compare.methods import PLAIN, default_out, plugins_of
from abatis.commands.compare.options import Asked
from abatis.commands.compare.ranking import notes, ranked
from abatis.commands.compare.tables import show
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError, did_you_mean


def compare_finished(asked: Asked) -> int:
    """``RUN ...``: compare what is there; returns the exit code."""
    options = asked.options
    runs = read_runs(asked.runs)
    check_alike(runs)
    if not options.allow_fail:
        refuse_failed(runs)
    order = list(dict.fromkeys(run.method for run in runs))
    out = options.out or default_out(str(runs[0].record.get("data", "data")))
    report(
        runs, [], order, find_baseline(options.baseline, order), [], out, Console(highlight=False)
    )
    return 0


def find_baseline(name: str | None, order: Sequence[str]) -> str:
    """The method the others are compared with; raises UsageError."""
    if name is None:
        return PLAIN if PLAIN in order else order[0]
    known = (
        [name]
        if name in order
        else [method for method in order if plugins_of(method) == plugins_of(name)]
    )
    if not known:
        raise UsageError(f"the baseline '{name}' is not compared: {did_you_mean(name, order)}")
    return known[0]


def report(
    runs: Sequence[Judged],
    failed: Sequence[Failed],
    order: Sequence[str],
    baseline: str,
    told: Sequence[str],
    out: Path,
    console: Console,
) -> dict[str, Any]:
    """Rank, show and write; returns what compare.json holds."""
    compared = ranked(runs, failed, order, baseline)
    compared["notes"] = [*notes(compared, runs, RunConfig.model_fields), *told]
    endings = ",".join(path.suffix[1:] for path in write(compared, out))
    show(compared, console)
    console.print(
        f"written: {out / 'compare'}.{{{endings}}}", markup=False, soft_wrap=not console.is_terminal
    )
    return compared
