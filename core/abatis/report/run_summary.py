"""A run in a few words: its method, its numbers and its state, from the files of its folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abatis.config.discovery import get_plugin_name
from abatis.config.toml import read_toml
from abatis.errors import AbatisError, DataError, UsageError
from abatis.report.eval_record import RECORD, find_verdict, list_threats, read_record
from abatis.report.json_part import Part
from abatis.report.numbers import CLEAN, ROBUST, UPPER
from abatis.system.folder_lock import find_writer

ENDED = "ended.json"  # how a run ended: its state, and why
METRICS = "metrics.jsonl"
PLAIN, UNDEFENDED = "at", "standard"  # training without a plugin, with and without an attack
RUNNING, FINISHED, STOPPED, FAILED, DAMAGED = "running", "finished", "stopped", "failed", "damaged"


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        folder: the run folder.
        method: its plugins, joined by ``+``; without any, ``at`` or ``standard``, which has
            no attack; ``-`` where the options cannot be read.
        data: as they were asked for.
        backbone: as it was asked for.
        threat: the first one that was judged, else that of the training.
        seed: of the run.
        clean_acc: None where it was not judged; so are the next three.
        robust_acc: the share that no attack broke; None too where the verdict is FAIL.
        robust_acc_upper: the same share where the verdict is FAIL: an upper bound.
        verdict: of the masking diagnostics, the worst of all threats.
        ladder: of the evaluation.
        epoch: how many epochs have ended.
        epochs: of how many.
        changed: when its last file was written, in seconds since 1970.
        state: running, finished, stopped, failed or damaged.
        why: why it failed or is damaged.
    """

    folder: Path
    method: str
    data: str
    backbone: str
    threat: str
    seed: int | None
    clean_acc: float | None
    robust_acc: float | None
    robust_acc_upper: float | None
    verdict: str | None
    ladder: str | None
    epoch: int
    epochs: int | None
    changed: float
    state: str
    why: str = ""

    @property
    def headline(self) -> float | None:
        """The robust accuracy, or its upper bound."""
        return self.robust_acc if self.robust_acc is not None else self.robust_acc_upper

    @property
    def age(self) -> float:
        """Seconds since its last file was written."""
        return max(0.0, time.time() - self.changed)


def find_runs(folder: Path) -> list[Path]:
    """The run folders in a folder and below it, which may be one itself.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", fix="name the folder of your runs")
    return sorted(path.parent for path in folder.rglob("run.toml") if path.is_file())


def summarise_run(folder: Path) -> RunSummary:
    """Read a run. A damaged file makes it a damaged run, and no error."""
    faults = []
    options: Mapping[str, Any] = {}
    record: Mapping[str, Any] = {}
    try:
        options = read_toml(folder / "run.toml")
        record = read_record(folder)
    except AbatisError as error:
        faults.append(error.what)
    rows = Part.read_lines(folder / METRICS)
    epoch = int(rows[-1]["epoch"].number or 0) if rows else 0
    state, why = (DAMAGED, faults[0]) if faults else _find_state(folder, record)
    asked = Part(dict(options))
    threats, plugins = list_threats(record), [str(one) for one in asked["plugin"].parts()]
    plain = UNDEFENDED if asked["use"]["attacker"].value == "none" else PLAIN
    if "backbone" not in options:  # the file is damaged, or from elsewhere
        plain = str(Part())
    number = {name: Part(record.get(name)).number for name in (CLEAN.key, ROBUST.key, UPPER.key)}
    return RunSummary(
        folder=folder,
        method="+".join(map(get_plugin_name, plugins)) or plain,
        data=str(asked["data"]),
        backbone=str(asked["backbone"]),
        threat=threats[0] if threats else str(asked["threat"]),
        seed=_read_whole(asked["seed"]),
        clean_acc=number[CLEAN.key],
        robust_acc=number[ROBUST.key],
        robust_acc_upper=number[UPPER.key],
        verdict=find_verdict(record) if record.get("verdict") else None,
        ladder=record.get("ladder"),
        epoch=epoch,
        epochs=_read_whole(asked["epochs"]),
        changed=_find_last_change(folder),
        state=state,
        why=why,
    )


def _read_whole(part: Part) -> int | None:
    return None if part.number is None else int(part.number)


def _find_state(folder: Path, record: Mapping[str, Any]) -> tuple[str, str]:
    """The state of a run, and why it failed.

    A run that nobody writes and that left no word was killed, but for one of an older version,
    which left none; its evaluation is its last act.
    """
    if find_writer(folder):
        return RUNNING, ""
    try:
        told = Part.read(folder / ENDED)
    except DataError:
        told = Part()
    if told["state"].value in (FINISHED, STOPPED, FAILED):
        return str(told["state"]), str(told["why"].value or "")
    return (FINISHED if record else STOPPED), ""


def _find_last_change(folder: Path) -> float:
    """When the last of the files that a run writes was written."""
    names = (METRICS, RECORD, ENDED, "environment.json", "run.toml")
    paths: Sequence[Path] = [folder / name for name in names]
    return max(path.stat().st_mtime for path in paths if path.is_file())
