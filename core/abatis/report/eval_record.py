"""The file eval.json: how an evaluation is read and written, and when it may be replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abatis.api.threat import Threat
from abatis.config.ladders import LADDERS
from abatis.errors import DataError, UsageError
from abatis.report.record_check import find_fault
from abatis.report.sealed_json import CHECKSUM, is_intact, read_json, write_sealed
from abatis.report.verdicts import find_worst
from abatis.system.files import explain_disk_errors, sha256_of

RECORD = "eval.json"
BEHIND = ("run.toml", "plan.json", "metrics.jsonl")  # files of a run that belong to its evaluation
FILES = "files_sha256"  # in a record: the sha256 of these files and of the judged weights
FORMAT = 3
STATE = "eval-state.json"  # the finished attacks of an evaluation, so that it can resume
STATES = "eval-state*.json"  # of all its threats
UNDER = "under"  # in a record: the evaluations under further threats, by threat
UNION = "union"  # in a record: the points that withstood all threats
PICTURES = "pictures"  # beside a record: what is shown of some images, under the first threat
PICTURES_FILE = "pictures.json"
CORRUPTIONS = "corruptions"  # in a record: what was measured on corrupted images
SHARED = ("model", "data", "num_classes", "class_names", "note", "seed", "points_sha256")
"""What a record says once for all its threats."""


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


def read_pictures(folder: Path, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the pictures of an evaluation; empty where there are none, or others.

    Args:
        folder: of the evaluation.
        record: what it holds.
    """
    try:
        found = read_json(folder / PICTURES_FILE)
    except DataError:
        return {}
    known = isinstance(found, dict) and is_intact(found) and CHECKSUM in record
    pictures = found.get(PICTURES) if known and found.get("of") == record[CHECKSUM] else None
    return pictures if isinstance(pictures, dict) else {}


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

    The state of the evaluation is of no further use then, and is removed. The pictures, which are
    large, go into a file of their own.

    Returns:
        What was written: the record with ``test_set_evaluations`` and its sha256.
    """
    before = read_record(folder).get("test_set_evaluations") or 0
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        behind = [folder / name for name in (*BEHIND, str(record.get("weights", "")))]
        files = {path.name: sha256_of(path) for path in behind if path.is_file()}
        table = {**record, "test_set_evaluations": 1 + before, FILES: files}
        pictures = table.pop(PICTURES, None)
        full = write_sealed(folder / RECORD, table, indent=1)
        if pictures:
            write_sealed(folder / PICTURES_FILE, {"of": full[CHECKSUM], PICTURES: pictures})
        for state in folder.glob(STATES):
            state.unlink(missing_ok=True)
    return full


def name_state(threat: Threat | None = None) -> str:
    """Return the name of the file for the finished attacks of a threat; of the first if None."""
    if threat is None:
        return STATE
    return STATE.replace(".json", f"-{threat.norm}-{threat.text.replace('/', '_')}.json")


def list_threats(record: Mapping[str, Any]) -> list[str]:
    """Return the threats of a record, the first one first; none after the clean ladder."""
    own = record.get("threat")
    return [*([] if own is None else [own]), *(record.get(UNDER) or {})]


def split_threats(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a record for each threat, as if it had been judged alone."""
    own = {key: value for key, value in record.items() if key not in (UNDER, UNION)}
    shared = {key: value for key, value in own.items() if key in SHARED}
    return [own, *({**shared, **other} for other in (record.get(UNDER) or {}).values())]


def find_verdict(record: Mapping[str, Any]) -> str | None:
    """Return the masking verdict of a record, the worst over its threats; None for none."""
    verdicts = [one.get("verdict") for one in split_threats(record)]
    return verdicts[0] if len(verdicts) == 1 else find_worst(verdicts)


def check_replaceable(
    folder: Path, ladder: str, threats: Sequence[str] = (), corruptions: bool = False
) -> None:
    """Check that an evaluation may be written into a folder.

    Args:
        folder: that may hold another one.
        ladder: of the evaluation.
        threats: of the evaluation.
        corruptions: does it judge on corrupted images?

    Raises:
        UsageError: the folder holds one by a longer ladder, of further threats, or on corrupted
            images as the only one.
    """
    record = read_record(folder)
    lost = [threat for threat in (record.get(UNDER) or {}) if threat not in threats]
    if lost:
        raise UsageError(
            f"{folder / RECORD} holds an evaluation under {' and '.join(list_threats(record))}",
            fix=f"judge all of them again, with --threat {lost[0]} too, or use another --out",
        )
    if CORRUPTIONS in record and not corruptions:
        raise UsageError(
            f"{folder / RECORD} holds results on corrupted images, which would be lost",
            fix="add --corruptions, or use another --out",
        )
    before = record.get("ladder")
    if before in LADDERS and LADDERS.index(before) > LADDERS.index(ladder):
        raise UsageError(
            f"{folder / RECORD} holds a {before} evaluation, which a {ladder} one would replace",
            fix=f"use --ladder {before}, or another --out",
        )
