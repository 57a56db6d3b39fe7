"""How a run ended, written into its folder: finished, stopped or failed, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from abatis.errors import AbatisError, Stopped
from abatis.report.run_summary import ENDED, FAILED, FINISHED, STOPPED
from abatis.system.files import write_text

LONGEST = 300  # characters of a reason


@contextmanager
def note_ending(folder: Path) -> Iterator[None]:
    """Write how what runs inside ended; what an earlier start wrote is removed first.

    A run that is killed leaves nothing, and a full disk hides no other error.
    """
    with suppress(OSError):
        (folder / ENDED).unlink(missing_ok=True)
    try:
        yield
    except (Stopped, KeyboardInterrupt) as error:
        _write(folder, STOPPED, str(getattr(error, "what", "interrupted")))
        raise
    except Exception as error:
        why = error.what if isinstance(error, AbatisError) else f"{type(error).__name__}: {error}"
        _write(folder, FAILED, why)
        raise
    _write(folder, FINISHED, "")


def _write(folder: Path, state: str, why: str) -> None:
    with suppress(OSError, AbatisError):
        write_text(folder / ENDED, json.dumps({"state": state, "why": why[:LONGEST]}) + "\n")
