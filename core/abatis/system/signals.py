"""Ctrl-C and SIGTERM: finished work is kept, and the command ends with exit code 75."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from abatis.errors import Stopped

AGAIN = "to continue, repeat the command with --resume (and --name)"
Handler = Callable[[int, FrameType | None], None]


class StopRequest:
    """SIGINT or SIGTERM during training.

    The first one finishes the step, saves and ends the run. A second one ends it at once; the
    last checkpoint stays valid.
    """

    def __init__(self) -> None:
        self.asked = False
        self._former: Mapping[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._former = _set_handlers(self._hear)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # If another process heard the signal first, the same signal is on its way to this one,
        # and must not interrupt it now.
        ignore = isinstance(error, Stopped) and not self.asked
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_IGN if ignore else handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # An elastic agent passes on a SIGTERM that a scheduler has already sent to every process:
        # that is one request.
        if self.asked and not (number == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ):
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_at_once(folder: Path, again: str = AGAIN) -> Iterator[None]:
    """Let SIGINT or SIGTERM end an evaluation at once; each finished attack is kept.

    Raises:
        Stopped: on either signal.
    """
    former = _set_handlers(signal.default_int_handler)  # raises KeyboardInterrupt
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
            signal.signal(number, handler)


def _set_handlers(handler: Handler) -> Mapping[int, Any]:
    """Handle both signals by ``handler``; returns the former handlers.

    Only a main thread may do so; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
