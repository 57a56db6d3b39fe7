"""The file eval.json: what is kept of an evaluation, and how a later one may follow it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abatis.config.run_config import LADDERS
from abatis.errors import UsageError
from abatis.system.files import disk, write_text

RECORD = "eval.json"
STATE = "eval-state.json"  # of an evaluation that goes on


def read_record(folder: Path) -> Mapping[str, Any]:
    """The evaluation in a folder; empty where there is none. Raises UsageError where it cannot be read."""
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the evaluation: {error}",
            where=str(path),
            fix="remove it and evaluate again",
        ) from error
    return found


def write_record(folder: Path, record: Mapping[str, object]) -> dict[str, Any]:
    """Write it, counting how often the test set has been looked at; returns what was written."""
    full = {
        **record,
        "test_set_evaluations": 1 + read_record(folder).get("test_set_evaluations", 0),
    }
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECORD, json.dumps(full, indent=1) + "\n")
    return full


def check_replaceable(folder: Path, ladder: str) -> None:
    """Raise UsageError where a shorter ladder would take the place of a longer one."""
    before = read_record(folder).get("ladder")
    if before in LADDERS and LADDERS.index(before) > LADDERS.index(ladder):
        raise UsageError(
            f"{folder / RECORD} holds a {before} evaluation, which a {ladder} one would replace",
            fix=f"use --ladder {before}, or another --out",
        )
