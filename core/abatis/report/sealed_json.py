"""JSON files that carry the sha256 of their own content, and reading any JSON file safely."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abatis.errors import DataError
from abatis.system.files import digest, write_text

CHECKSUM = "content_sha256"
DEEPEST = 40  # levels of nesting in a record; ours have at most six


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: it is not valid JSON, or is nested more deeply than any record.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [found]
    for _ in range(DEEPEST):
        parts = [part for part in level if isinstance(part, dict | list) and part]
        if not parts:
            return found
        level = [
            inner
            for part in parts
            for inner in (part.values() if isinstance(part, dict) else part)
            if isinstance(inner, dict | list)
        ]
    raise ValueError("it is nested too deeply")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {path.name}: {error}",
            where=str(path),
            fix="restore it from a backup; or delete it and repeat what wrote it "
            "(for eval.json the evaluation)",
        ) from error


def seal(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table as JSON gives it back, with the sha256 of its content."""
    plain = json.loads(json.dumps({key: table[key] for key in table if key != CHECKSUM}))
    return {**plain, CHECKSUM: digest(plain)}


def is_intact(table: Mapping[str, Any]) -> bool:
    """Does a table have a sha256 of its content, and the right one?"""
    content = {key: value for key, value in table.items() if key != CHECKSUM}
    return CHECKSUM in table and table[CHECKSUM] == digest(content)


def write_sealed(path: Path, table: Mapping[str, Any], indent: int | None = None) -> dict[str, Any]:
    """Write a table with the sha256 of its content, whole or not at all; returns what it wrote."""
    sealed = seal(table)
    write_text(path, json.dumps(sealed, indent=indent) + "\n")
    return sealed
