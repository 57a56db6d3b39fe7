"""Texts in TOML that stand for a number or a switch: ``epochs = "3"``.

On the command line every value is a text. In TOML the quotes are a mistake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from abatis.errors import UsageError


def check_quotes(
    table: Mapping[str, Any], models: Mapping[str, type[BaseModel]], path: Path
) -> None:
    """Raise UsageError where a number or a switch is in quotes.

    Args:
        table: The content of a TOML file.
        models: The options of the core, by the empty name, and of each plugin.
        path: The file.
    """
    tables = {"": table}
    tables |= {key.replace("_", "-"): value for key, value in table.items()}
    for name, model in models.items():
        given = tables.get(name)
        if not isinstance(given, Mapping):
            continue
        for option, value, meant in _find_quoted(given, model, f"{name}." if name else ""):
            kind = "true or false" if isinstance(meant, bool) else "a number"
            raise UsageError(
                f"{option}: {json.dumps(value)} is a text, where {kind} is wanted",
                where=str(path),
                fix=f"write {option.rpartition('.')[2]} = {json.dumps(_unquote(value, meant))}",
            )


def _find_quoted(
    table: Mapping[str, Any], model: type[BaseModel], inside: str
) -> Iterator[tuple[str, Any, Any]]:
    """Each option with such a text: its name, its value, and what it would be read as."""
    for key, value in table.items():
        name = key.replace("-", "_")
        field = model.model_fields.get(name)
        group = None if field is None else field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            if isinstance(value, Mapping):
                yield from _find_quoted(value, group, f"{inside}{name}.")
        elif field is not None and isinstance(value, str | list):
            meant = _read(model, name, value)
            texts, read = (value, meant) if isinstance(value, list) else ([value], [meant])
            for text, one in zip(texts, read or (), strict=False):
                if isinstance(text, str) and isinstance(one, bool | int | float):
                    yield f"{inside}{name}", value, one
                    break


def _read(model: type[BaseModel], name: str, value: Any) -> Any:
    """What a model makes of one value; None where it refuses it."""
    with suppress(Exception):  # what is wrong with it is said where all options are checked
        return getattr(model.model_validate({name: value}), name)
    return None


def _unquote(value: Any, meant: Any) -> Any:
    """The value without its quotes."""
    if not isinstance(value, list):
        return meant
    return [json.loads(one) if isinstance(one, str) else one for one in value]
