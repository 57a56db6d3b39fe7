"""The console scripts: ``defense`` with its subcommands, and ``defense-run``, which is ``defense run``.

Nothing here imports torch; the subcommands do, when they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import NoReturn

from abatis import __version__
from abatis.errors import AbatisError, ProcessLost, Stopped, UsageError, did_you_mean

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """``defense SUBCOMMAND ...``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _dispatch(words))


def run(argv: Sequence[str] | None = None) -> int:
    """``defense-run ...``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _train(words, "defense-run"))


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<10} {about}" for name, (_, about) in COMMANDS.items())
        print(f"usage: defense COMMAND ...\n\ncommands:\n{rows}\n\ndefense COMMAND --help says more.")
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        raise UsageError(f"unknown command '{words[0]}': {did_you_mean(words[0], COMMANDS)}", fix="defense --help lists them")
    command, _ = COMMANDS[words[0]]
    return command(words[1:], f"defense {words[0]}")


def _train(words: Sequence[str], prog: str) -> int:
    from abatis.command_line import parse_run

    notes: list[str] = []
    config = parse_run(words, prog, notes)
    if config.nproc > 1 and not config.dry_run and "WORLD_SIZE" not in os.environ:
        from abatis.launch import launch, launch_elastic

        return launch_elastic(config, words) if config.max_restarts else launch(config.nproc, words)
    from abatis.runner import run as train

    for note in notes if not (config.quiet or _place()) else ():
        print(note, file=sys.stderr)
    train(config)
    return 0


def _registry(words: Sequence[str], prog: str) -> int:
    from abatis.registry.command import command

    return command(words, prog)


def _eval(words: Sequence[str], prog: str) -> int:
    from abatis.evaluate.command import command

    return command(words, prog)


def _compare(words: Sequence[str], prog: str) -> int:
    from abatis.compare.command import command

    return command(words, prog)


def _export(words: Sequence[str], prog: str) -> int:
    from abatis.export.command import command

    return command(words, prog)


def _new(words: Sequence[str], prog: str) -> int:
    from abatis.new import command

    return command(words, prog)


def _doctor(words: Sequence[str], prog: str) -> int:
    from abatis.doctor import command

    return command(words, prog)


COMMANDS: dict[str, tuple[Callable[[Sequence[str], str], int], str]] = {
    "run": (_train, "train and judge a model (the same as defense-run)"),
    "eval": (_eval, "judge any model: attacks, masking verdict, margins, report"),
    "compare": (_compare, "train what is missing, judge alike, one ranked table"),
    "export": (_export, "publish a run: safetensors, ONNX, torch.export, RobustBench, the hub"),
    "new": (_new, "make a plugin of your own from a tested template"),
    "doctor": (_doctor, "can a run start here, and what mends what is broken?"),
    "registry": (_registry, "the known methods: list, show, check, add"),
}


def _guarded(command: Callable[[], int]) -> int:
    """The exit code of a command; one of several processes ends here."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:  # torch would warn of find_unused_parameters in every run where a term reaches all of them
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
        if not (isinstance(error, Stopped) and _place()):  # all processes stop; the first one says so
            print(f"{_place()}error: {error}", file=sys.stderr)
        if error.__cause__ is not None and error.exit_code == 1:
            print("  ABATIS_TRACEBACK=1 shows the full traceback", file=sys.stderr)
        if "TORCHELASTIC_ERROR_FILE" in os.environ:  # the elastic agent reads there why a process ended
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
