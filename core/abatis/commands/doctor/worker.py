"""A process of the doctor: it runs programs one after the other and says what became of each.

``python -m abatis.commands.doctor.worker`` reads a JSON line with ``code`` and ``words`` for each
program, and answers each with a JSON line. A program that crashes takes this process with it, which
:class:`Worker`, on the other side, sees.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from typing import Any

READY = "ready"
WARN = "warning: "
"""Begins the last line of a program that works, but found something that should be fixed."""


class Worker:
    """Runs programs in a process of its own, and in a new one after each that ended it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, code: str, words: Sequence[str], patience: float) -> tuple[bool, str]:
        """Run one program.

        Args:
            code: The program.
            words: Its arguments.
            patience: Seconds until it counts as one that does not answer.

        Returns:
            Whether it works, and the last line of its output or of its error.
        """
        process = self.process = self.process or self._start()
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(patience, give_up)
        timer.start()
        try:
            with suppress(OSError):  # it has ended; there is no answer then
                print(json.dumps({"code": code, "words": list(words)}), file=process.stdin)
                process.stdin.flush()  # type: ignore[union-attr]
            answer = process.stdout.readline()  # type: ignore[union-attr]
        finally:
            timer.cancel()
        if answer:
            told = json.loads(answer)
            return told["ok"], told["detail"]
        exit_code = self.close()
        return False, (
            f"no answer within {patience} s"
            if late.is_set()
            else f"ended with exit code {exit_code}"
        )

    def close(self) -> int:
        """End the process; returns its exit code."""
        if self.process is None:
            return 0
        with suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]
        code = self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process = None
        return code

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "abatis.commands.doctor.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        process.stdout.readline()  # type: ignore[union-attr]  # READY: patience is with programs
        return process


def run_program(code: str, words: Sequence[str]) -> Mapping[str, Any]:
    """Run one program in this process; returns whether it works, and one line about it."""
    sys.argv[1:] = words
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            exec(compile(code, "<doctor>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        if isinstance(stop.code, str):
            return {"ok": False, "detail": " ".join(stop.code.split())}
        if stop.code:
            return {"ok": False, "detail": f"ended with exit code {stop.code}"}
    except BaseException as error:  # whatever an import raises is the answer
        lines = traceback.format_exception_only(error)[-1].splitlines() or [type(error).__name__]
        return {"ok": False, "detail": lines[0]}
    lines = said.getvalue().strip().splitlines()
    return {"ok": True, "detail": lines[-1] if lines else ""}


def main() -> int:
    """Run the programs that come, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(run_program(asked["code"], asked["words"])), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
