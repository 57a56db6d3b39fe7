"""Options that were renamed: their old names still work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abatis.errors import UsageError

OLD_NAMES = {"eval": "ladder"}
"""By the old name: the option."""


def rename_old(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A table of options with the names of today.

    Raises:
        UsageError: an option is given under both its names.
    """
    for old, name in OLD_NAMES.items():
        if old in raw and name in raw:
            raise UsageError(
                f"'{old}' and '{name}' are two names of one option", fix=f"remove '{old}'"
            )
    return {OLD_NAMES.get(key, key): value for key, value in raw.items()}


def rename_flag(flag: str) -> tuple[str, str]:
    """The name of today of a flag such as ``--eval``, and a note; empty where it is not old."""
    name = OLD_NAMES.get(flag.removeprefix("--"))
    if name is None or not flag.startswith("--"):
        return flag, ""
    return f"--{name}", f"note: {flag} is called --{name}; the old name works too"
