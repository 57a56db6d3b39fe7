"""Files that are changed in place: one process at a time, and whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from abatis.errors import UsageError
from abatis.system.files import explain_disk_errors, write_text
from abatis.system.folder_lock import lock_file


def change_text(path: Path, change: Callable[[str], str]) -> str:
    """Read a text file, change the text and write it back.

    No other process that changes the file by this function does so in between, and a process that
    is killed leaves the old file or the new one. A link stays one: its target is changed.

    Args:
        path: The file.
        change: From the text of the file to the new one; what it raises leaves the file as it is.

    Returns:
        The new text.

    Raises:
        UsageError: the file is no text, it cannot be written, or another process holds it.
    """
    path = path.resolve()
    with lock_file(path):
        try:
            before = path.read_text(encoding="utf-8")
        except ValueError as error:
            raise UsageError(
                f"cannot read: {error}", where=str(path), fix="restore the file or delete it"
            ) from error
        text = change(before)
        with explain_disk_errors(path):
            write_text(path, text)
    return text
