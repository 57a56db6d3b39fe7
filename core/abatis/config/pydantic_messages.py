"""What pydantic and pydantic-settings complain about, in the words of this project.

Everything that depends on their error codes or on the text of their messages lies here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError

from abatis.config.other_names import find_ours
from abatis.errors import UsageError, did_you_mean

WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table of names and values",
    "literal_error": "must be {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "too_long": "must have at most {max_length} values",
    "too_short": "must have at least {min_length} values",
}
"""What each error code of pydantic means; the braces are filled from the error's context."""
LIST_CODES = ("tuple_type", "list_type")
NOTHING = ("none", "None", "null")
"""What is written where an option is meant to have no value."""
GROUP_CODE = "model_type"
"""The code of a group of options that was given a value of its own."""


def as_usage_error(error: ValidationError, model: type[BaseModel], prefix: str = "") -> UsageError:
    """The first complaint of a validation as a UsageError.

    Args:
        error: What pydantic raised.
        model: The model that was validated.
        prefix: The path of the model in the whole configuration.
    """
    first = error.errors(include_url=False)[0]
    group = _model_at(model, first["loc"])
    if first["type"] == GROUP_CODE and group is not None:
        return group_error(_path(prefix, first["loc"]), group, first["input"])
    missing = str(first["input"]) in NOTHING and _may_be_missing(model, first["loc"])
    return UsageError(explain(error, model, prefix), fix="leave it out" if missing else None)


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first complaint of a validation: the option, what it must be, and what was given."""
    first = error.errors(include_url=False)[0]
    path, code = _path(prefix, first["loc"]), first["type"]
    context = {key: _shorten(value) for key, value in first.get("ctx", {}).items()}
    if code == "extra_forbidden":
        fields = getattr(_model_at(model, first["loc"][:-1]), "model_fields", {})
        last = str(first["loc"][-1])
        ours = "" if prefix else find_ours(last)
        hint = f"it is called {ours} here" if ours else did_you_mean(last, fields)
        text = f"unknown option '{path}': {hint}"
    elif code == "missing":
        text = f"{path} is missing"
    elif code == "value_error":
        text = f"{path}: {context['error']}"
    elif code in LIST_CODES and isinstance(first["input"], str):  # numbers that JSON lacks
        inner = first["input"].strip("[]")
        text = f"{path} must be finite numbers with commas between them, not {inner!r}"
    elif code in WORDS:
        text = f"{path} {WORDS[code].format(**context)}, not {first['input']!r}"
    else:
        text = f"{path}: {first['msg']} (got {first['input']!r})"
    more = error.error_count() - 1
    return f"{text} [and {more} more]" if more else text


def group_error(path: str, group: type[BaseModel], value: object = None) -> UsageError:
    """Where a group of options is given a value: an error that names the option this value fits.

    Args:
        path: The group's name, like ``mix``.
        group: Its model.
        value: What was given; None where nothing was.
    """
    what = f"--{path} is a group of options"
    if value is not None:
        what += f" and takes no value (got {_show(value)})"
    found = None if value is None else _find_option(group, value)
    if found is None:
        names = ", ".join(_hyphened(name) for name in group.model_fields)
        return UsageError(what, fix=f"write --{path}.NAME VALUE; the names are {names or 'none'}")
    name, fitting = found
    toml = f"{path}.{name} = {json.dumps(fitting, default=str)}"
    return UsageError(
        what, fix=f"write --{path}.{_hyphened(name)} {_show(value)}, or {toml} in TOML"
    )


def find_unread(error: Exception) -> str | None:
    """The option whose value pydantic-settings could not read; None where its message names none.

    Args:
        error: The SettingsError; its class is not imported here, since most commands do without.
    """
    found = re.search(r'parsing value for field "([\w.-]+)"|encountered for ([\w.-]+)', str(error))
    return found[1] or found[2] if found else None


def _find_option(group: type[BaseModel], value: object) -> tuple[str, Any] | None:
    """The first option of a group that accepts this value, and the value as it reads it."""
    for name in group.model_fields:
        with suppress(Exception):  # whatever a validator raises, this option does not fit
            return name, getattr(group.model_validate({name: value}), name)
    return None


def _model_at(model: type[BaseModel], path: Iterable[int | str]) -> type[BaseModel] | None:
    """The model at a path of names; None where the path leads to something else."""
    found: Any = model
    for part in path:
        field = getattr(found, "model_fields", {}).get(part)
        if field is None:
            return None
        found = field.annotation
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _may_be_missing(model: type[BaseModel], loc: Iterable[int | str]) -> bool:
    """Is there no value by default for the option at a path, or for the list that it is in?"""
    *groups, name = [part for part in loc if isinstance(part, str)] or [""]
    field = getattr(_model_at(model, groups), "model_fields", {}).get(name)
    return field is not None and field.default is None


def _path(prefix: str, loc: Iterable[int | str]) -> str:
    """``optim.lr``, or ``value 1 of optim.betas``."""
    parts: list[int | str] = [*([prefix] if prefix else []), *loc]
    path = ".".join(str(part) for part in parts if isinstance(part, str))
    if parts and isinstance(parts[-1], int) and path:
        return f"value {parts[-1] + 1} of {path}"
    return ".".join(map(str, parts))


def _shorten(value: object) -> object:
    """1 for 1.0: bounds are shown as they are written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _hyphened(name: str) -> str:
    return name.replace("_", "-")


def _show(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
