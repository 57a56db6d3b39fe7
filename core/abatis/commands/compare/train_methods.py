"""Trains and evaluates the runs that a comparison of methods still needs, then compares."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from abatis.commands.compare.compare_runs import find_baseline, report
from abatis.commands.compare.finished_runs import FailedRun, JudgedRun, check_alike, read_run
from abatis.commands.compare.methods import MethodRuns
from abatis.commands.compare.options import Asked
from abatis.commands.jobs.write import write_jobs
from abatis.config.ladders import LADDERS
from abatis.config.option_sets import FREE_IN_COMPARISON
from abatis.config.run_config import RunConfig
from abatis.errors import AbatisError, Stopped, UsageError
from abatis.report.console import SafeConsole
from abatis.report.eval_record import RECORD, list_threats
from abatis.runs.open_data import open_run_data
from abatis.runs.run import run
from abatis.system.device import pick_device
from abatis.system.folder_lock import find_writer
from abatis.train.resume import check_files, check_same

FAILED_RUN, FAILED_VERDICT = 1, 6  # exit codes


def compare_methods(asked: Asked) -> int:
    """``defense compare --methods NAME ...``; returns the exit code."""
    options, methods = asked.options, asked.methods
    order = [method.name for method in methods]
    baseline = find_baseline(options.baseline, order)
    config = methods[0].configs[0]
    console = SafeConsole(quiet=config.quiet)

    def tell(text: str) -> None:
        console.print(text, markup=False, soft_wrap=not console.is_terminal)

    if options.jobs is not None:
        _write_jobs(options.jobs, methods, tell)
        return 0
    runs, failed = train_missing(methods, tell)
    if config.dry_run:
        return FAILED_RUN if failed else 0
    if runs:
        check_alike(runs)
    sources = [f"options of {method.name}: {method.sources}" for method in methods]
    compared = report(runs, failed, order, baseline, sources, config.out, console)
    if failed:
        return FAILED_RUN
    masked = any(row["verdict"] == "FAIL" for row in compared["rows"])
    return FAILED_VERDICT if masked and not options.allow_fail else 0


def train_missing(
    methods: Sequence[MethodRuns], tell: Callable[[str], None]
) -> tuple[list[JudgedRun], list[FailedRun]]:
    """Train and evaluate the runs that are not finished.

    Args:
        methods: The methods with the configurations of their runs.
        tell: Called with a line about each run.

    Returns:
        The evaluated runs, and the runs that failed.

    Raises:
        AbatisError: A method cannot start, or a run folder holds another run; then none is trained.
        Stopped: The training was interrupted.
    """
    todo = _check_all(methods)
    judged: list[JudgedRun] = []
    failed: list[FailedRun] = []
    for place, (name, config) in enumerate(todo, start=1):
        folder = _folder(config)
        done = _is_done(config)
        state = "finished" if done else "training"
        tell(f"run {place} of {len(todo)}: {name}, seed {config.seed}: {state}, {folder}")
        why = "" if done else _train_one(config)
        if why:
            tell(f"failed: {why}")
            failed.append(FailedRun(name, config.seed, folder, why))
        elif not config.dry_run:
            judged.append(read_run(folder, name))
    return judged, failed


def _check_all(methods: Sequence[MethodRuns]) -> list[tuple[str, RunConfig]]:
    """Check that every run can start; returns them with the names of their methods."""
    todo = [(method.name, config) for method in methods for config in method.configs]
    for _, config in todo:
        _check_folder(config)
    _check_methods(todo)
    _check_data(todo)
    return todo


def _write_jobs(path: Path, methods: Sequence[MethodRuns], tell: Callable[[str], None]) -> None:
    """Write the commands of the runs that are not finished."""
    waiting = [config for _, config in _check_all(methods) if not _is_done(config)]
    for text in write_jobs(path, waiting):
        tell(text)


def _check_folder(config: RunConfig) -> None:
    """Raise an error where a run's folder holds another run, or is being written."""
    folder = _folder(config)
    check_same(config, folder, FREE_IN_COMPARISON, fix="choose another --out")
    check_files(config, folder, fix="choose another --out")
    if writer := find_writer(folder):
        raise UsageError(
            f"{writer} is writing this run", where=str(folder), fix="wait for it or stop it"
        )


def _check_data(todo: Sequence[tuple[str, RunConfig]]) -> None:
    """Open the data, which all runs share, if any is to be trained; raises DataError."""
    for _, config in todo:
        if not config.dry_run and not _is_done(config):
            open_run_data(config, None, pick_device(config.device))
            return


def _check_methods(todo: Sequence[tuple[str, RunConfig]]) -> None:
    """Make the plan of every method that will be trained; raises the first error."""
    waiting = {name: config for name, config in todo if not config.dry_run and not _is_done(config)}
    for name, config in waiting.items():
        try:
            run(config.model_copy(update={"dry_run": True, "quiet": True}))
        except AbatisError as error:
            where = f"method {name}" + (f", {error.where}" if error.where else "")
            raise type(error)(error.what, where=where, fix=error.fix) from error.__cause__


def _train_one(config: RunConfig) -> str:
    """Train and evaluate one run, or resume it; returns why that failed, or an empty text."""
    try:
        run(config)
    except Stopped as error:
        raise Stopped(
            error.what, where=error.where, fix="run the same command again to continue"
        ) from error
    except Exception as error:  # the comparison continues without this run
        if os.environ.get("ABATIS_TRACEBACK"):
            raise
        return _explain(error)
    return ""


def _explain(error: Exception) -> str:
    """What failed, where, and how to fix it, in one line."""
    if not isinstance(error, AbatisError):
        return f"{type(error).__name__}: {error}"
    parts = [f"{type(error).__name__}: {error.what}"]
    parts += [f"where: {error.where}"] if error.where else []
    parts += [f"fix: {error.fix}"] if error.fix else []
    return "; ".join(parts)


def _folder(config: RunConfig) -> Path:
    return config.out / str(config.name)


def _is_done(config: RunConfig) -> bool:
    """Whether there is an evaluation on the ladder this run asks for, or on a higher one."""
    folder = _folder(config)
    if not ((folder / RECORD).exists() and (folder / "run.toml").exists()):
        return False
    record = read_run(folder).record
    measured = record.get("ladder") or (
        "quick" if record.get("autoattack_acc") is None else "standard"
    )
    if not {*config.also_threat} <= {*list_threats(record)}:
        return False
    return LADDERS.index(measured) >= LADDERS.index(config.ladder)
