"""TOML files with options: reading them, and listing their options by dotted names."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from abatis.api.options import use_underscores
from abatis.errors import UsageError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a configuration file; hyphens in its keys become underscores. Raises UsageError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"no configuration file at {path}", fix="check the path given to --config"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"cannot read {path}: {error}",
            fix="the file must be valid TOML, like the run.toml of a run",
        ) from error
    result: dict[str, Any] = use_underscores(table)
    return result


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The options of a run.toml by dotted name, with underscores."""
    for key, value in table.items():
        name = f"{prefix}{key}".replace("-", "_")
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value
