"""The console scripts: ``defense``, which finds its commands by entry point, and ``defense-run``.

A command is a function of its words that returns an exit code, in the entry-point group
``abatis.commands``. Its module imports only the standard library at the top, so that
``defense --help`` stays quick and loads no torch.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import NoReturn

from abatis import __version__
from abatis.errors import (
    INTERRUPTED,
    AbatisError,
    PluginError,
    ProcessLost,
    Stopped,
    UsageError,
    did_you_mean,
)
from abatis.system.entry_points import EntryPoint, read_entry_points
from abatis.system.printable import make_printable

GROUP = "abatis.commands"
OURS = "abatis"  # the distribution whose commands come first; no other one can take their names
FAULT = 70  # an error that nobody expected
TRACEBACK = "ABATIS_TRACEBACK"  # the variable that shows tracebacks
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)

Command = Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``defense COMMAND ...``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_guarded(lambda: _dispatch(words))


def run(argv: Sequence[str] | None = None) -> int:
    """Run ``defense-run ...``, which is ``defense run ...``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def command() -> int:
        from abatis.commands.run import command

        return command(words, "defense-run")

    return run_guarded(command)


def find_commands() -> Mapping[str, EntryPoint]:
    """Return the entry point of every installed command by name, ours first.

    Where two distributions use a name, ours keeps it, else the first of the entry points. Names
    that cannot be typed as one word are left out.
    """
    return _by_name(_entry_points())


def _entry_points() -> list[EntryPoint]:
    points = read_entry_points(GROUP)
    return sorted(points, key=lambda point: (point.distribution != OURS, point.name))


def _by_name(points: Sequence[EntryPoint]) -> Mapping[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in points:
        if NAME.fullmatch(point.name):
            found.setdefault(point.name, point)
    return found


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        return _show_help()
    if words[0] == "--version":
        print(__version__)
        return 0
    commands = find_commands()
    if words[0] not in commands:
        raise UsageError(
            f"unknown command {words[0]!r}: {did_you_mean(words[0], commands)}",
            fix="defense --help lists all commands",
        )
    point = commands[words[0]]
    code = _load(point)(words[1:])
    if code is not None and not isinstance(code, int):
        raise PluginError(
            f"the command '{point.name}' returned {code!r:.40}, not an exit code",
            where=f"{point.distribution}, {point.value}",
            fix="return an int, or nothing for success",
        )
    return code or 0


def _load(point: EntryPoint) -> Command:
    """Return the function of a command; raises PluginError if its distribution is broken."""
    where = f"{point.distribution}, {point.value}"
    try:
        command: Command = point.load()
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise PluginError(
            f"the command '{point.name}' cannot be loaded: {type(error).__name__}: {error}",
            where=where,
            fix=f"fix or reinstall {point.distribution}; other commands are not affected",
        ) from error
    if not callable(command):
        raise PluginError(
            f"the command '{point.name}' is not a function",
            where=where,
            fix="let the entry point name a function of the words that returns an exit code",
        )
    return command


def _show_help() -> int:
    """List every command with the first line of its docstring, and name those that are broken."""
    points = _entry_points()
    rows, broken = [], []
    for name, point in _by_name(points).items():
        try:
            lines = str(_load(point).__doc__ or "").strip().splitlines()
            rows.append(f"  {name:<10} {lines[0] if lines else '(no description)'}")
        except PluginError as error:
            broken.append(f"not listed: {error.what} ({point.distribution})")
    for point in points:
        if not NAME.fullmatch(point.name):
            broken.append(
                f"not listed: {point.name!r} is not a valid name for a command"
                f" ({point.distribution})"
            )
    rows = [make_printable(row) for row in rows]
    print("usage: defense COMMAND ...", "", "commands:", *rows, sep="\n")
    print("\ndefense COMMAND --help describes a command.")
    for line in broken:
        print(make_printable(line.replace("\n", " ")), file=sys.stderr)
    return 0


def run_guarded(command: Callable[[], int]) -> int:
    """Run a command; returns its exit code, or ends here as one of several processes."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        # torch would warn about find_unused_parameters in every run whose terms reach all of them
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    code = _report_errors(command)
    if several:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End at once.

    torch's threads, freed with a traceback or by the interpreter, may abort or wait for each
    other for ever.
    """
    with suppress(OSError):  # nobody may be reading
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _report_errors(command: Callable[[], int]) -> int:
    """Turn errors into a message of a few lines and an exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack a character
    try:
        return command()
    except AbatisError as error:
        if os.environ.get(TRACEBACK):
            raise
        return _report(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        return _report_fault(error)


def _report_fault(error: Exception) -> int:
    """Print what no other message was made for, and how to report it; returns the exit code."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    with suppress(OSError):  # nobody may be reading
        print(make_printable(f"{_process()}error: unexpected {text}"), file=sys.stderr)
        print(
            f"  please report it with the version, {__version__}, and what {TRACEBACK}=1 shows",
            file=sys.stderr,
        )
    _tell_agent(error)
    return FAULT


def _report(error: AbatisError) -> int:
    """Print an error; returns its exit code."""
    process = _process()
    if not (isinstance(error, Stopped) and process):  # all processes stop; the first one says so
        print(make_printable(f"{process}error: {error}"), file=sys.stderr)
    if error.__cause__ is not None and error.exit_code == 1:
        print(f"  {TRACEBACK}=1 shows the full traceback", file=sys.stderr)
    _tell_agent(error)
    if isinstance(error, ProcessLost):
        _leave(error.exit_code)
    return error.exit_code


def _tell_agent(error: Exception) -> None:
    """Record where torch's elastic agent reads it why this process ended."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def _process() -> str:
    """Return which of several processes this is, to begin a line with; empty for the first."""
    number = os.environ.get("RANK", "0")
    return "" if number == "0" else f"process {number}: "
