"""Runs the commands of a file: some at a time on this machine, or as jobs of a cluster."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from abatis.commands.jobs.one_line import STOPPED, OneLine, describe_code
from abatis.commands.jobs.options import Asked
from abatis.errors import Stopped, UsageError
from abatis.system.files import explain_disk_errors

AGAIN = 3  # how often a command is repeated that was stopped from outside
SLURM_MINUTES = 24 * 60


def run_file(asked: Asked) -> int:
    """Run the commands; returns 0, the exit code of the first that failed, or raises Stopped."""
    with explain_disk_errors(asked.logs):
        asked.logs.mkdir(parents=True, exist_ok=True)
    if asked.launcher == "here":
        return _report(_run_here(asked), asked.logs)
    return _submit(asked)


def _run_here(asked: Asked) -> dict[int, int]:
    """The exit codes by line."""
    codes: dict[int, int] = {}
    running: list[OneLine] = []
    leaving = False

    def run_one(number: int, line: str) -> int:
        code = STOPPED
        with _log(asked.logs, number).open("ab") as output:
            for _ in range(AGAIN):
                if leaving:
                    return STOPPED
                one = OneLine(line)
                running.append(one)
                code = one(output)
                running.remove(one)
                if code != STOPPED:
                    break
        return code

    with ThreadPoolExecutor(asked.workers) as pool:
        waiting = {pool.submit(run_one, *line): line for line in asked.lines}
        try:
            for done in as_completed(waiting):
                number, line = waiting[done]
                codes[number] = done.result()
                print(f"line {number}: {describe_code(codes[number])}: {line}", flush=True)
        except KeyboardInterrupt:
            leaving = True
            pool.shutdown(wait=False, cancel_futures=True)
            for one in list(running):
                one.stop()
            raise Stopped(
                f"stopped after {len(codes)} of {len(asked.lines)} commands; the others are saved",
                fix="run the same command again to continue",
            ) from None
    return codes


def _log(folder: Path, number: int) -> Path:
    return folder / f"line-{number:04d}.log"


def _report(codes: dict[int, int], logs: Path) -> int:
    """Name what failed; returns the exit code."""
    failed = [number for number, code in sorted(codes.items()) if code]
    print(f"{len(codes) - len(failed)} of {len(codes)} commands ended; their output: {logs}")
    for number in failed:
        print(
            f"line {number} {describe_code(codes[number])}: {_log(logs, number)}", file=sys.stderr
        )
    return abs(codes[failed[0]]) if failed else 0


def _submit(asked: Asked) -> int:
    """Submit every command as a job of its own; waits only for those on this machine."""
    executor = _make_executor(asked)
    jobs = [executor.submit(OneLine(line)) for _, line in asked.lines]
    for (number, _), job in zip(asked.lines, jobs, strict=True):
        print(f"line {number}: job {job.job_id}, {job.paths.stdout}", flush=True)
    if asked.launcher == "slurm":
        return 0
    codes = {line[0]: _wait(job) for line, job in zip(asked.lines, jobs, strict=True)}
    return _report(codes, asked.logs)


def _wait(job: Any) -> int:
    return int(job.result())


def _make_executor(asked: Asked) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UsageError(
            f"--launcher {asked.launcher} needs submitit, which is not installed",
            fix="pip install 'abatis[slurm]'",
        ) from error
    cluster = "local" if asked.launcher == "local" else "slurm"
    try:
        executor = submitit.AutoExecutor(folder=asked.logs, cluster=cluster)
    except RuntimeError as error:
        raise UsageError(
            f"there is no Slurm here: {error}", fix="run this where sbatch is, or --launcher here"
        ) from error
    limits = {"timeout_min": SLURM_MINUTES, **asked.resources}
    executor.update_parameters(name="abatis", **limits)
    return executor
