"""Every error a user can cause: at most four lines that say what, where and how to fix it.

The exit code of the command line is the error's own ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

FEW = 20  # names that fit into a message


class AbatisError(Exception):
    """Base of all errors that are shown without a traceback."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(line.replace("\n", " ") for line in lines)


class PluginError(AbatisError):
    """A plugin failed or broke its contract while the run was going on."""

    exit_code = 1


class UsageError(AbatisError):
    """A wrong option, name, configuration or combination."""

    exit_code = 2


class DataError(UsageError):
    """Data that are missing, empty, out of range or of the wrong shape."""


class PluginConflict(UsageError):
    """Two plugins answer a hook that exactly one may answer."""


class CheckpointError(AbatisError):
    """Checkpoints exist, but none of them can be trusted; rejected: each by its folder's name, and why."""

    exit_code = 3
    rejected: tuple[str, ...] = ()


class NotFiniteError(AbatisError):
    """A loss, a gradient or a logit is NaN or infinite; the update was not made.

    step: where it happened in a training, None in an evaluation; terms: the means of the step's terms, where they were read.
    """

    exit_code = 4
    step: int | None = None
    terms: Mapping[str, float] = {}

    @classmethod
    def at(
        cls, step: int, what: str, update: str, terms: Mapping[str, float] | None = None
    ) -> NotFiniteError:
        """One of a training step."""
        error = cls(
            what,
            where=f"step {step}; {update}",
            fix="lower --optim.lr, set --clip-grad 1, or lower the term's weight",
        )
        error.step, error.terms = step, terms or {}
        return error


class OutOfMemoryError(AbatisError):
    """The device has no memory left for this batch."""

    exit_code = 5


class Stopped(AbatisError):
    """The run was asked to stop and has saved its state."""

    exit_code = 75


def is_out_of_memory(error: Exception) -> bool:
    """Did the device, or the host, refuse memory? The CPU's refusal is a plain RuntimeError."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'?"`` for the nearest known word, or the known words where none is near and they are few."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return (
        f"known: {', '.join(words) or 'none'}"
        if len(words) <= FEW
        else f"it is none of the {len(words)} that are known"
    )


class ProcessLost(AbatisError):
    """Another process of the run has ended; what it said is the reason."""
