"""One command of a file, run as a process; on a cluster it is pickled and sent there."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

OURS = {"defense-run": ["run"], "defense": []}
STOPPED = 75  # exit code of a run that was asked to stop and has saved its state
NOT_STARTED = 127  # exit code of shells where there is no such command


def find_words(line: str) -> list[str]:
    """The words of a command; ours run with this Python, wherever their scripts lie."""
    words = shlex.split(line)
    if words[0] in OURS:
        return [sys.executable, "-m", "abatis", *OURS[words[0]], *words[1:]]
    return words


@dataclass
class OneLine:
    """A command that a scheduler may stop and queue again.

    Args:
        line: the command.
    """

    line: str
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __call__(self, output: IO[bytes] | None = None) -> int:
        """Run the command to its end; returns its exit code, 127 where it cannot be started."""
        try:
            self.process = subprocess.Popen(find_words(self.line), stdout=output, stderr=output)
        except OSError as error:
            said = f"cannot be started: {error}\n"
            if output is None:
                sys.stderr.write(said)
            else:
                output.write(said.encode())
            return NOT_STARTED
        return self.process.wait()

    def stop(self) -> None:
        """Let the command save its state and end."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)

    def checkpoint(self) -> Any:
        """What submitit calls when the job is stopped: save, and queue the same command again."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        if self.process is not None:
            self.process.wait()
        return DelayedSubmission(OneLine(self.line))

    def __getstate__(self) -> dict[str, Any]:
        return {"line": self.line, "process": None}


def describe_code(code: int) -> str:
    """An exit code in words."""
    if code == 0:
        return "ended"
    if code == STOPPED:
        return "stopped; its state is saved"
    if code == NOT_STARTED:
        return "failed: no such command"
    if code < 0:
        return f"killed by signal {-code}"
    return f"failed with exit code {code}"
