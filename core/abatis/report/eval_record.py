"""The file eval.json: how an evaluation is read and written, and when it may be replaced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abatis.config.run_options import LADDERS
from abatis.errors import DataError, UsageError
from abatis.report.record_check import find_fault
from abatis.report.sealed_json import CHECKSUM, is_intact, read_json, write_sealed
from abatis.system.files import explain_disk_errors, sha256_of

RECORD = "eval.json"
BEHIND = ("run.toml", "plan.json", "metrics.jsonl")  # files of a run that belong to its evaluation
FILES = "files_sha256"  # in a record: the sha256 of these files and of the judged weights
STATE = "eval-state.json"  # the finished attacks of an evaluation, so that it can resume


def read_record(folder: Path) -> Mapping[str, Any]:
    """Return the evaluation in a folder; empty if there is none.

    Raises:
        DataError: it cannot be read, was changed since it was written, or its accuracies, counts
            and intervals do not agree with its points.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    found = read_json(path)
    fault = find_fault(found)
    if not fault and CHECKSUM in found and not is_intact(found):
        fault = "its content does not match its own sha256"
    if not fault and FILES in found and CHECKSUM not in found:
        fault = "its own sha256 is missing"
    if fault:
        raise DataError(
            f"the evaluation in {RECORD} is damaged or was edited: {fault}",
            where=str(path),
            fix="restore it from a backup, or delete it and evaluate again",
        )
    record: Mapping[str, Any] = found
    return record


def check_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Check that the files of a run are those that its evaluation is about.

    Args:
        folder: the run folder.
        record: its evaluation; older ones name no files.

    Raises:
        DataError: a file is missing, or was changed since.
    """
    for name, sha256 in record.get(FILES, {}).items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise DataError(
                f"{name} is not as it was when the run was evaluated",
                where=str(path),
                fix="restore it from a backup; if the run was continued since, let it end: "
                "defense-run ... --resume evaluates it again",
            )


def describe_check(record: Mapping[str, Any]) -> str:
    """Say how far a record could be checked; empty where it has its sha256, or is empty."""
    if not record or CHECKSUM in record:
        return ""
    if record.get("per_point"):
        return f"{RECORD} has no checksum (an older version wrote it); its numbers fit its points"
    return f"{RECORD} has neither a checksum nor results by point: its numbers cannot be checked"


def write_record(folder: Path, record: Mapping[str, object]) -> dict[str, Any]:
    """Write an evaluation with its sha256, and count how often the test set has been used.

    The state of the evaluation is of no further use then, and is removed.

    Returns:
        What was written: the record with ``test_set_evaluations`` and its sha256.
    """
    before = read_record(folder).get("test_set_evaluations") or 0
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        behind = [folder / name for name in (*BEHIND, str(record.get("weights", "")))]
        files = {path.name: sha256_of(path) for path in behind if path.is_file()}
        table = {**record, "test_set_evaluations": 1 + before, FILES: files}
        full = write_sealed(folder / RECORD, table, indent=1)
        (folder / STATE).unlink(missing_ok=True)
    return full


def check_replaceable(folder: Path, ladder: str) -> None:
    """Check that an evaluation by this ladder may be written into a folder.

    Raises:
        UsageError: the folder holds one by a longer ladder.
    """
    before = read_record(folder).get("ladder")
    if before in LADDERS and LADDERS.index(before) > LADDERS.index(ladder):
        raise UsageError(
            f"{folder / RECORD} holds a {before} evaluation, which a {ladder} one would replace",
            fix=f"use --ladder {before}, or another --out",
        )
