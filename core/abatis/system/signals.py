"""Ctrl-C, SIGTERM and a closed terminal: finished work is kept, and the exit code is 75."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from abatis.errors import Stopped

termios: Any = None
with suppress(ImportError):  # Windows has none
    import termios

HANGUP = getattr(signal, "SIGHUP", None)
"""What a process hears when its terminal is closed; Windows has no such signal."""
STOPPING: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, *([] if HANGUP is None else [HANGUP]))
AGAIN = "to continue, repeat the command with --resume (and --name)"
Handler = Callable[[int, FrameType | None], None]


class StopRequest:
    """SIGINT, SIGTERM or SIGHUP during training.

    The first one finishes the step, saves and ends the run. A second SIGINT or SIGTERM ends it at
    once; the last checkpoint stays valid.
    """

    def __init__(self) -> None:
        self.asked = False
        self._hung_up = False
        self._former: Mapping[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._former = _set_handlers(self._hear)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # If another process heard the signal first, the same signal is on its way to this one,
        # and must not interrupt it now.
        ignore = isinstance(error, Stopped) and not self.asked
        for number, handler in self._former.items():
            # a closed terminal may say so twice: by the shell and by the system
            again = self._hung_up and number == HANGUP
            signal.signal(number, signal.SIG_IGN if ignore or again else handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == HANGUP:
            leave_terminal()
            self._hung_up = self.asked = True
            return
        # An elastic agent passes on a SIGTERM that a scheduler has already sent to every process:
        # that is one request.
        if self.asked and not (number == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ):
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_at_once(folder: Path, again: str = AGAIN) -> Iterator[None]:
    """Let SIGINT, SIGTERM or SIGHUP end an evaluation at once; each finished attack is kept.

    Raises:
        Stopped: on any of these signals.
    """
    hung_up = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal hung_up
        if number == HANGUP:
            hung_up = True
            signal.signal(number, signal.SIG_IGN)  # it may come twice
            leave_terminal()
        raise KeyboardInterrupt

    former = _set_handlers(interrupt)
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(
            "stopped during the evaluation; finished attacks are kept",
            where=str(folder),
            fix=again,
        ) from None
    finally:
        for number, handler in former.items():
            if not (hung_up and number == HANGUP):
                signal.signal(number, handler)


def leave_terminal() -> None:
    """Write nowhere from now on, where the terminal is gone: writing there would be an error."""
    for descriptor in (1, 2) if termios else ():
        try:
            termios.tcgetattr(descriptor)
        except (OSError, termios.error) as error:
            if error.args[:1] == (errno.EIO,):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def choose_signals() -> tuple[int, ...]:
    """The signals that ask a run to stop; SIGHUP is not among them under ``nohup``."""
    return tuple(
        number
        for number in STOPPING
        if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN
    )


def _set_handlers(handler: Handler) -> Mapping[int, Any]:
    """Handle the signals by ``handler``; returns the former handlers.

    Only a main thread may do so; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in choose_signals()}
