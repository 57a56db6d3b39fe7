"""What Ctrl-C and SIGTERM do: nothing that was worked out is lost, and the command ends with 75."""

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

AGAIN = "the same command with --resume (and --name) goes on from here"
Handler = Callable[[int, FrameType | None], None]


class StopRequest:
    """SIGINT or SIGTERM once: finish the step, save, leave. Twice: leave at once, the last checkpoint stays good."""

    def __init__(self) -> None:
        self.asked = False
        self._former: Mapping[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._former = _heard_by(self._hear)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # stopped by what another process heard: the same signal is on its way here, and says nothing new
        deaf = isinstance(error, Stopped) and not self.asked
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_IGN if deaf else handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        # an elastic agent hands on a SIGTERM that a scheduler has sent to every process already: that is one request
        if self.asked and not (number == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ):
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stopped_at_once(folder: Path, again: str = AGAIN) -> Iterator[None]:
    """Around an evaluation, which keeps each finished attack: SIGINT or SIGTERM end it where it is; raises Stopped."""
    former = _heard_by(signal.default_int_handler)  # raises KeyboardInterrupt
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(
            "stopped during the evaluation; the attacks that were finished are kept",
            where=str(folder),
            fix=again,
        ) from None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _heard_by(handler: Handler) -> Mapping[int, Any]:
    """Hand both signals to ``handler``; returns who had them before. Only a main thread may do so."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
