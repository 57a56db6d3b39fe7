"""The console scripts: ``defense``, which finds its subcommands by entry point, and ``defense-run``, which is ``defense run``.

A subcommand is a function of its words that returns an exit code, in the entry-point group ``abatis.commands``. Its module
imports the standard library alone at its top, so nothing here loads torch.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import NoReturn

from abatis import __version__
from abatis.errors import AbatisError, PluginError, ProcessLost, Stopped, UsageError, did_you_mean

GROUP = "abatis.commands"
OURS = "abatis"  # the distribution whose commands come first, and are not hidden by another's
INTERRUPTED = 130

Command = Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """``defense SUBCOMMAND ...``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _dispatch(words))


def run(argv: Sequence[str] | None = None) -> int:
    """``defense-run ...``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def command() -> int:
        from abatis.commands.run import command

        return command(words, "defense-run")

    return _guarded(command)


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        return _help()
    if words[0] == "--version":
        print(__version__)
        return 0
    found = _found()
    if words[0] not in found:
        raise UsageError(
            f"unknown command '{words[0]}': {did_you_mean(words[0], found)}",
            fix="defense --help lists them",
        )
    return _load(found[words[0]])(words[1:])


def _found() -> dict[str, importlib.metadata.EntryPoint]:
    """Every installed subcommand by name, ours first; where a name is taken twice, the first keeps it."""
    points = [
        point for point in importlib.metadata.entry_points(group=GROUP) if point.dist is not None
    ]
    points.sort(key=lambda point: (_distribution(point) != OURS, point.name))
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in points:
        found.setdefault(point.name, point)
    return found


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return "" if point.dist is None else point.dist.name


def _load(point: importlib.metadata.EntryPoint) -> Command:
    """The function behind a command; raises PluginError where its distribution is broken."""
    try:
        command: Command = point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"the command '{point.name}' cannot be loaded: {type(error).__name__}: {error}",
            where=f"{_distribution(point)}, {point.value}",
            fix=f"fix or reinstall {_distribution(point)}; other commands are not affected",
        ) from error
    if not callable(command):
        raise PluginError(
            f"the command '{point.name}' is not a function",
            where=f"{_distribution(point)}, {point.value}",
            fix="point the entry point at a function of the words that returns an exit code",
        )
    return command


def _help() -> int:
    """List every command with the first line of its docstring; what cannot be loaded is named, and skipped."""
    rows, broken = [], []
    for name, point in _found().items():
        try:
            lines = (_load(point).__doc__ or "").strip().splitlines()
            rows.append(f"  {name:<10} {lines[0] if lines else 'no description'}")
        except PluginError as error:
            broken.append(f"not listed: {error.what} ({_distribution(point)})")
    print(
        "usage: defense COMMAND ...\n\ncommands:",
        *rows,
        "\ndefense COMMAND --help says more.",
        sep="\n",
    )
    for line in broken:
        print(line.replace("\n", " "), file=sys.stderr)
    return 0


def _guarded(command: Callable[[], int]) -> int:
    """The exit code of a command; one of several processes ends here."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if (
        several
    ):  # torch would warn of find_unused_parameters in every run where a term reaches all of them
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    code = _told(command)
    if several:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End at once: torch's threads, freed with a traceback or the interpreter, may abort or wait for each other for ever."""
    with suppress(OSError):  # nobody may be reading
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _told(command: Callable[[], int]) -> int:
    """Turn errors into a message of a few lines and an exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack a character
    try:
        return command()
    except AbatisError as error:
        if os.environ.get("ABATIS_TRACEBACK"):
            raise
        if not (
            isinstance(error, Stopped) and _place()
        ):  # all processes stop; the first one says so
            print(f"{_place()}error: {error}", file=sys.stderr)
        if error.__cause__ is not None and error.exit_code == 1:
            print("  ABATIS_TRACEBACK=1 shows the full traceback", file=sys.stderr)
        if (
            "TORCHELASTIC_ERROR_FILE" in os.environ
        ):  # the elastic agent reads there why a process ended
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)
        if isinstance(error, ProcessLost):
            _leave(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _place() -> str:
    """Which of several processes this is."""
    number = os.environ.get("RANK", "0")
    return "" if number == "0" else f"process {number}: "
