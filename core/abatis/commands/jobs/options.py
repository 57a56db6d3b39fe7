"""The options of ``defense jobs run``. Loads without torch."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abatis.api.options import read_path
from abatis.config.parser import Parser, read_count
from abatis.errors import UsageError

LAUNCHERS = ("here", "slurm", "local")
DESCRIPTION = """\
Run the commands of a file, one a line, as defense compare --jobs and defense
sweep --jobs write them. A run that has ended is not trained again, so that the
same command goes on after a stop. What each command prints is in FILE.logs."""


@dataclass(frozen=True)
class Asked:
    """Which commands to run, and where.

    Args:
        lines: (number from 1, command) each.
        logs: folder for what they print.
        workers: commands at a time.
        launcher: this process, Slurm, or submitit's local executor.
        resources: what a job on Slurm asks for, in submitit's words.
    """

    lines: tuple[tuple[int, str], ...]
    logs: Path
    workers: int
    launcher: str
    resources: dict[str, str | int]


def parse(words: Sequence[str], prog: str) -> Asked:
    """Parse ``run FILE ...``; raises UsageError."""
    own = make_parser(prog).parse_args(list(words))
    lines = read_lines(own.file)
    if own.line is not None:
        lines = tuple(line for line in lines if line[0] == own.line)
        if not lines:
            raise UsageError(f"{own.file} has no command on line {own.line}")
    _check_quotes(own.file, lines)
    logs = own.file.with_name(f"{own.file.name}.logs")
    given = {"slurm_partition": own.partition, "gpus_per_node": own.gpus}
    given |= {"cpus_per_task": own.cpus, "timeout_min": own.minutes}
    resources = {name: value for name, value in given.items() if value is not None}
    if resources and own.launcher == "here":
        raise UsageError(
            "--partition, --gpus, --cpus and --minutes are of jobs on a cluster",
            fix="add --launcher slurm, or leave them out",
        )
    return Asked(lines, logs, own.workers, own.launcher, resources)


def read_lines(path: Path) -> tuple[tuple[int, str], ...]:
    """The commands of a file with their line numbers; empty lines and comments are left out."""
    try:
        texts = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the file of commands cannot be read: {error}", where=str(path)
        ) from error
    lines = ((number, text.strip()) for number, text in enumerate(texts, start=1))
    found = tuple((number, text) for number, text in lines if text and not text.startswith("#"))
    if not found:
        raise UsageError("the file holds no command", where=str(path))
    return found


def _check_quotes(path: Path, lines: Sequence[tuple[int, str]]) -> None:
    """Refuse a line that cannot be split into words, before the first command starts."""
    for number, text in lines:
        try:
            shlex.split(text)
        except ValueError as error:
            raise UsageError(
                f"line {number} is not a command: {error}",
                where=str(path),
                fix="close its quotation marks",
            ) from error


def make_parser(prog: str) -> Parser:
    """The parser of ``run FILE`` and its options."""
    parser = Parser(
        prog=prog,
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("run",), help="what to do with the commands")
    parser.add_argument("file", type=read_path, metavar="FILE", help="one command a line")
    parser.add_argument(
        "--workers", type=read_count, default=1, metavar="N", help="commands at a time (default: 1)"
    )
    parser.add_argument(
        "--line",
        type=read_count,
        metavar="N",
        help="run only the command on line N, counted from 1, as a job of an array does",
    )
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="here",
        help="here: on this machine; slurm: each as a Slurm job that is queued again when it is"
        " stopped; local: as slurm, but on this machine, to try it. The last two need the extra"
        " slurm (default: here)",
    )
    parser.add_argument("--partition", metavar="NAME", help="of Slurm")
    parser.add_argument("--gpus", type=read_count, metavar="N", help="GPUs of a job")
    parser.add_argument("--cpus", type=read_count, metavar="N", help="cores of a job")
    parser.add_argument("--minutes", type=read_count, metavar="N", help="time limit of a job")
    return parser
