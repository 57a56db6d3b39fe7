"""Every error that a user can cause: at most four lines that say what, where and how to fix it.

The exit code of the command line is the error's own ``exit_code``.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Mapping

FEW = 20  # names that fit into a message
INTERRUPTED = 130  # exit code of a command that Ctrl-C ended, and that saved nothing


class AbatisError(Exception):
    """Base of all errors that are shown without a traceback. Exit code 1 unless a subclass sets it.

    Args:
        what: what is wrong, in one sentence.
        where: the file, option, plugin or step it is about.
        fix: what to do about it.
    """

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
    """A plugin raised an exception or broke the contract. Exit code 1."""

    exit_code = 1


class ProcessLost(AbatisError):
    """Another process of the run has ended or stopped responding. Exit code 1.

    The reason is in the messages of that process.
    """

    exit_code = 1


class UsageError(AbatisError):
    """An option, a name, a file or a combination of them is wrong. Exit code 2."""

    exit_code = 2


class DataError(UsageError):
    """The data are missing, empty, out of range or of the wrong shape. Exit code 2."""


class PluginConflict(UsageError):
    """Two plugins answer a hook that only one may answer. Exit code 2."""


class CheckpointError(AbatisError):
    """There are checkpoints, but none of them can be used. Exit code 3.

    Attributes:
        rejected: the folder of each checkpoint and why it was rejected.
    """

    exit_code = 3
    rejected: tuple[str, ...] = ()


class NotFiniteError(AbatisError):
    """A loss, a gradient or a logit is NaN or infinite; the update was not made. Exit code 4.

    Attributes:
        step: the training step in which it happened; None in an evaluation.
        terms: the means of the step's terms, if they were read.
    """

    exit_code = 4
    step: int | None = None
    terms: Mapping[str, float] = {}

    @classmethod
    def at(
        cls, step: int, what: str, update: str, terms: Mapping[str, float] | None = None
    ) -> NotFiniteError:
        """Make the error of a training step.

        Args:
            step: the number of the step, from 0.
            what: what is not finite.
            update: what became of the update, as in "the update was not made".
            terms: the means of the step's terms, if they were read.
        """
        error = cls(
            what,
            where=f"step {step}; {update}",
            fix="lower --optim.lr, set --clip-grad 1, or lower the term's weight",
        )
        error.step, error.terms = step, terms or {}
        return error


class OutOfMemoryError(AbatisError):
    """The device has too little memory for this batch. Exit code 5."""

    exit_code = 5


class Stopped(AbatisError):
    """The run was asked to stop and has saved its state. Exit code 75."""

    exit_code = 75


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the nearest known word, else the known words if few."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if len(words) <= FEW:
        return f"known: {', '.join(words) or 'none'}"
    return f"none of the {len(words)} known names is similar"


def summarise_error(error: BaseException) -> str:
    """Return the type and the text of an exception in one short line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" ...")
