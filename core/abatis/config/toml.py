"""TOML files with options: reading them, and listing their options by dotted names."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from abatis.api.options import use_underscores
from abatis.errors import UsageError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a configuration file; hyphens in its keys become underscores.

    Raises:
        UsageError: it cannot be read, or has one option in two spellings.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a BOM
    except FileNotFoundError:
        raise UsageError(
            f"no configuration file at {path}", fix="check the path given to --config"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"cannot read {path}: {error}",
            fix="the file must be valid TOML, like the run.toml of a run",
        ) from error
    try:
        _check_spellings(table)
    except UsageError as error:
        raise UsageError(error.what, where=str(path), fix=error.fix) from None
    result: dict[str, Any] = use_underscores(table)
    return result


def _check_spellings(table: Mapping[str, Any], inside: str = "") -> None:
    """Raise UsageError where a table, at any depth, has one option in two spellings."""
    use_underscores(table, inside)
    for key, value in table.items():
        if isinstance(value, Mapping):
            _check_spellings(value, f"{inside}.{key}" if inside else key)


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The options of a run.toml by dotted name, with underscores."""
    for key, value in table.items():
        name = f"{prefix}{key}".replace("-", "_")
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value
