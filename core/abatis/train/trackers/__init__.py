"""Trackers: trainer hooks that log the numbers of a run in another program, with ``--track NAME``.

Each module here imports the library that it logs to, and is imported when a run asks for it;
``abatis.config.built_in`` is the table of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abatis.api.context import TrainerHooks
from abatis.config.built_in import TRACKERS, load_built_in
from abatis.config.plan_row import BUILT_IN
from abatis.errors import UsageError


class Tracker(TrainerHooks):
    """One record in another program, written by the first process; a resumed run continues it.

    Args:
        folder: That of the run.
        options: Of the run, by their dotted names.

    Attributes:
        version: Of the library, as the plan shows it.
        record: The program's own name of the record, "" before the first numbers.
        logged: Epochs whose numbers are written.
    """

    version = BUILT_IN

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.folder = folder
        self.options = options
        self.record = ""
        self.logged = 0

    def metrics(self, values: Mapping[str, float]) -> None:
        """Write the numbers of ``values["epoch"]``."""
        numbers = {name: float(value) for name, value in values.items() if name != "epoch"}
        epoch = int(values["epoch"])
        self.write(numbers, epoch)
        self.logged = epoch

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        """Write the numbers of an epoch where they outlive the process."""
        raise NotImplementedError

    def close(self, finished: bool) -> None:
        """Called when the run ends; finished: is all of it done?"""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"record": self.record, "told": self.logged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # empty where the checkpoint was written without this tracker
        self.record = state.get("record", "")
        self.logged = state.get("told", 0)


def load_trackers(names: Sequence[str]) -> dict[str, type[Tracker]]:
    """The trackers of ``--track``, by name; raises UsageError if the library of one is missing."""
    found = {}
    for name in names:
        try:
            found[name] = load_built_in(TRACKERS[name])
        except ImportError as error:
            raise UsageError(
                f"--track {name}: {name} is not installed", fix=f"pip install 'abatis[{name}]'"
            ) from error
    return found


@contextmanager
def open_trackers(
    names: Sequence[str], folder: Path, options: Mapping[str, Any]
) -> Iterator[dict[str, Tracker]]:
    """The trackers of a run by name, closed when it ends."""
    trackers = {name: make(folder, options) for name, make in load_trackers(names).items()}
    finished = False
    try:
        yield trackers
        finished = True
    finally:
        for tracker in trackers.values():
            tracker.close(finished)
