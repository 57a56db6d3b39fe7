"""The file eval.json: how an evaluation is read and written, and when it may be replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abatis.config.run_config import LADDERS
from abatis.errors import UsageError
from abatis.system.files import explain_disk_errors, write_text

RECORD = "eval.json"
STATE = "eval-state.json"  # the finished attacks of an evaluation, so that it can resume


def read_record(folder: Path) -> Mapping[str, Any]:
    """Return the evaluation in a folder; empty if there is none.

    Raises:
        UsageError: it cannot be read.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the evaluation: {error}",
            where=str(path),
            fix="delete it and evaluate again",
        ) from error
    return found


def write_record(folder: Path, record: Mapping[str, object]) -> dict[str, Any]:
    """Write an evaluation, and count how often the test set has been used.

    Returns:
        What was written: the record with ``test_set_evaluations``.
    """
    full = {
        **record,
        "test_set_evaluations": 1 + read_record(folder).get("test_set_evaluations", 0),
    }
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECORD, json.dumps(full, indent=1) + "\n")
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
