"""Checks the registry against the installed plugins, their folders and the committed records."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from abatis.api import hooks
from abatis.api.options import PluginConfig
from abatis.commands.registry.entries import Method, Role, read_registry, registry_file
from abatis.config import discovery
from abatis.errors import AbatisError
from abatis.report.verdicts import UNKNOWN, find_worst


def find_problems() -> tuple[list[str], list[str]]:
    """Problems, and notes on what was not checked; raises UsageError for a broken registry."""
    known, root = read_registry(), registry_file().parent
    checkout = (root / "plugins").is_dir()
    found = [
        f"{method.name}: {line}"
        for method in known.values()
        for line in _with_others(method, known)
    ]
    notes = [] if checkout else ["not a git checkout: folders and records were not checked"]
    for method in known.values():
        if method.name in discovery.list_installed():
            found += [f"{method.name}: {line}" for line in _with_plugin(method)]
        else:
            text = f"{method.name}: not installed: hooks and options were not checked"
            (found if checkout and not method.community else notes).append(text)
        if checkout:
            found += [
                f"{method.name}: {line}"
                for line in (*_with_folder(method, root), *_with_records(method, root))
            ]
    if checkout:
        found += _find_unregistered(known, root)
    return found, notes


def list_hooks(module: object) -> list[Role]:
    """The hooks that a module implements, besides its options."""
    return [role for role in get_args(Role) if hasattr(module, f"defense_{role}")]


def list_defaults(config_class: type[PluginConfig]) -> dict[str, str]:
    """Every option and its default, as on the command line."""
    return {
        discovery.normalise_name(name): _format_value(value)
        for name, value in config_class().model_dump(mode="json").items()
    }


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_format_value, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _with_others(method: Method, known: Mapping[str, Method]) -> Iterator[str]:
    for other in method.tested_with:
        if other not in known:
            yield f"tested_with names '{other}', which is not registered"
        elif method.name not in known[other].tested_with:
            yield f"is tested with {other}, but the entry of {other} does not say so"


def _with_plugin(method: Method) -> Iterator[str]:
    there = discovery.list_installed()[method.name]
    if there.distribution != method.distribution:
        yield f"distribution is {method.distribution}, but {there.distribution} is installed"
    try:
        plugin = discovery.load_plugin(method.name)
        real = list_defaults(plugin.config_class)
    except (AbatisError, ValueError) as error:
        yield f"cannot be loaded: {str(error).splitlines()[0]}"
        return
    provided = list_hooks(plugin.module)
    if set(method.hooks) != set(provided):
        yield f"hooks are {', '.join(method.hooks)}, but the module has {', '.join(provided)}"
    for option in sorted({*real, *method.options}):
        entered, default = method.options.get(option), real.get(option)
        if default is None:
            yield f"option {option} does not exist in the plugin"
        elif entered is None:
            yield f"option {option} is missing; the plugin has {default}"
        elif entered != default:
            yield f"option {option} is {entered}, but the plugin has {default}"


def _with_folder(method: Method, root: Path) -> Iterator[str]:
    file = root / "plugins" / method.name / "pyproject.toml"
    if method.community:
        return
    if not file.is_file():
        yield f"{file.relative_to(root)} is missing; a plugin kept elsewhere needs community = true"
        return
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    if project["name"] != method.distribution:
        where = file.relative_to(root)
        yield f"distribution is {method.distribution}, but {where} has {project['name']}"
    if method.name not in project.get("entry-points", {}).get(hooks.ENTRY_POINT_GROUP, {}):
        yield f"{file.relative_to(root)} has no entry point of this name"
    if not (root / "docs" / "methods" / f"{method.name}.md").is_file():
        yield f"docs/methods/{method.name}.md is missing"


def _with_records(method: Method, root: Path) -> Iterator[str]:
    verdicts = []
    for name, wanted in method.records.items():
        try:
            rows = {
                row["method"]: row
                for row in json.loads((root / name).read_text(encoding="utf-8"))["rows"]
            }
        except (OSError, ValueError, LookupError, TypeError) as error:
            yield f"record {name} cannot be read: {type(error).__name__}: {error}"
            continue
        for row in wanted:
            if row not in rows:
                yield f"record {name} has no row '{row}'"
            else:
                verdicts.append(rows[row].get("verdict"))
    worst = find_worst(one for one in verdicts if one not in (None, UNKNOWN))
    if (method.verdict or UNKNOWN) != worst:
        recorded = "none" if worst == UNKNOWN else worst
        yield f"verdict is {method.verdict or 'absent'}, but its records have {recorded}"


def _find_unregistered(known: Mapping[str, Method], root: Path) -> list[str]:
    folders = [file.parent.name for file in sorted(root.glob("plugins/*/pyproject.toml"))]
    return [f"plugins/{name} has no entry" for name in folders if name not in known]
