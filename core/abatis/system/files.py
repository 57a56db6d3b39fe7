"""Files that are written whole or not at all, disk errors, and digests. Loads without torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abatis.errors import UsageError
from abatis.system import torch_messages


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as file:  # never through a link
            file.write(content)
            file.flush()
            flush(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a full, missing or read-only disk into a UsageError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not torch_messages.cannot_write(error):
            raise
        raise UsageError(
            f"cannot write: {error}",
            where=str(path),
            fix="free disk space or make the folder writable, or choose another --out",
        ) from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(table: Mapping[str, Any]) -> str:
    """Return the sha256 of a table of plain types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def flush(descriptor: int) -> None:
    """Wait until the disk has what was written to an open file."""
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names of the files in a folder; Windows opens no folder."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
