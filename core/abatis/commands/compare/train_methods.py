"""Trains and judges the runs that a comparison of methods lacks, then compares."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from abatis.commands.compare.compare_runs import find_baseline, report
from abatis.commands.compare.finished_runs import SAME, Failed, Judged, check_alike, read_run
from abatis.commands.compare.methods import Method
from abatis.commands.compare.options import Asked
from abatis.config.run_config import LADDERS, RunConfig
from abatis.errors import AbatisError, Stopped
from abatis.report.eval_record import RECORD
from abatis.runs.runner import run
from abatis.train.resume import check_files, check_same

FAILED_RUN, FAILED_VERDICT = 1, 6  # exit codes


def compare_methods(asked: Asked) -> int:
    """``--methods``: train what is missing, then compare; returns the exit code."""
    options, methods = asked.options, asked.methods
    order = [method.name for method in methods]
    baseline = find_baseline(options.baseline, order)
    config = methods[0].configs[0]
    console = Console(quiet=config.quiet, highlight=False)
    runs, failed = train(
        methods, lambda text: console.print(text, markup=False, soft_wrap=not console.is_terminal)
    )
    if config.dry_run:
        return FAILED_RUN if failed else 0
    if runs:
        check_alike(runs)
    told = [f"options of {method.name}: {method.sources}" for method in methods]
    compared = report(runs, failed, order, baseline, told, config.out, console)
    if failed:
        return FAILED_RUN
    masked = any(row["verdict"] == "FAIL" for row in compared["rows"])
    return FAILED_VERDICT if masked and not options.allow_fail else 0


def train(
    methods: Sequence[Method], tell: Callable[[str], None]
) -> tuple[list[Judged], list[Failed]]:
    """Train and judge what is missing; raises UsageError where a folder holds another run, Stopped after Ctrl-C."""
    todo = [(method.name, config) for method in methods for config in method.configs]
    for _, config in todo:
        check_same(config, _folder(config), SAME, fix="choose another --out")
        check_files(config, _folder(config), fix="choose another --out")
    judged: list[Judged] = []
    failed: list[Failed] = []
    for place, (name, config) in enumerate(todo, start=1):
        folder = _folder(config)
        done = _is_done(config)
        tell(
            f"run {place} of {len(todo)}: {name}, seed {config.seed}: {'finished' if done else 'training'}, {folder}"
        )
        why = "" if done else _trained(config)
        if why:
            tell(f"failed: {why}")
            failed.append(Failed(name, config.seed, folder, why))
        elif not config.dry_run:
            judged.append(read_run(folder, name))
    return judged, failed


def _trained(config: RunConfig) -> str:
    """Train and judge one run, from where it was; returns why that failed, or nothing."""
    try:
        run(config)
    except Stopped as error:
        raise Stopped(
            error.what, where=error.where, fix="the same command goes on from here"
        ) from error
    except Exception as error:  # the comparison goes on without this run, whatever broke it
        if os.environ.get("ABATIS_TRACEBACK"):
            raise
        return f"{type(error).__name__}: {error.what if isinstance(error, AbatisError) else error}"
    return ""


def _folder(config: RunConfig) -> Path:
    return config.out / str(config.name)


def _is_done(config: RunConfig) -> bool:
    """Is there an evaluation that goes at least as far as this run asks for?"""
    folder = _folder(config)
    if not ((folder / RECORD).exists() and (folder / "run.toml").exists()):
        return False
    record = read_run(folder).record
    measured = record.get("ladder") or (
        "quick" if record.get("autoattack_acc") is None else "standard"
    )
    return LADDERS.index(measured) >= LADDERS.index(config.eval)
