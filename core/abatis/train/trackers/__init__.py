"""Trackers: trainer hooks that hand the numbers of a run to another program. Off unless ``--track NAME`` asks for one.

Each module here is written on the own interface of its library, which is imported when a run asks for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abatis.api.context import TrainerHooks
from abatis.errors import UsageError


class Tracker(TrainerHooks):
    """One record in another program. It lives in the first process alone, and a resumed run goes on with the same record.

    folder: that of the run; options: of the run, by their dotted names.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.folder, self.options = folder, options
        self.record = ""  # the program's own name of it, "" before the first numbers
        self.told = 0  # epochs

    def metrics(self, values: Mapping[str, float]) -> None:
        """Hand on the numbers that belong to ``values["epoch"]``."""
        self.write(
            {name: float(value) for name, value in values.items() if name != "epoch"},
            int(values["epoch"]),
        )
        self.told = int(values["epoch"])

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        """Write the numbers of an epoch where they outlive the process."""
        raise NotImplementedError

    def close(self, finished: bool) -> None:
        """The run leaves; finished: because all of it is done."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"record": self.record, "told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.record, self.told = (
            state.get("record", ""),
            state.get("told", 0),
        )  # may be asked for since the checkpoint


def check(names: Sequence[str]) -> None:
    """Raise UsageError where the library of a tracker is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"--track {name}: {name} is not installed", fix=f"pip install 'abatis[{name}]'"
            ) from error


@contextmanager
def tracking(
    names: Sequence[str], folder: Path, options: Mapping[str, Any]
) -> Iterator[dict[str, Tracker]]:
    """The trackers of a run by name, closed when it is left."""
    modules = {name: importlib.import_module(f"abatis.train.trackers.to_{name}") for name in names}
    trackers = {name: module.Recorder(folder, options) for name, module in modules.items()}
    finished = False
    try:
        yield trackers
        finished = True
    finally:
        for tracker in trackers.values():
            tracker.close(finished)
