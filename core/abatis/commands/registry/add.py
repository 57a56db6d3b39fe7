"""Makes the registry entry of a third-party plugin from its folder.

Name, distribution and homepage come from ``pyproject.toml``, hooks and options from the module,
which is imported. Paper, equation, claim and evidence come from the table ``[tool.abatis]`` of
``pyproject.toml``.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from abatis.api import hooks
from abatis.commands.registry.check import list_defaults, list_hooks
from abatis.commands.registry.entries import Method, parse_registry
from abatis.config import discovery
from abatis.config.known_plugins import registry_file
from abatis.config.pydantic_messages import explain
from abatis.errors import AbatisError, PluginError, UsageError
from abatis.system.change_file import change_text

DESCRIBED = ("title", "paper", "equation", "claim", "evidence")


def add(folder: Path, write: bool = False) -> str:
    """The registry entries of a plugin.

    Args:
        folder: The folder of the plugin, with its ``pyproject.toml``.
        write: Whether the entries are also appended to the registry of the checkout.

    Returns:
        The entries as TOML.

    Raises:
        UsageError: ``folder`` is not a plugin, or its table ``[tool.abatis]`` is incomplete.
        PluginError: The module cannot be imported or used.
    """
    text = "".join(f"\n{tomli_w.dumps({'method': [entry]})}" for entry in _entries(folder))
    path = registry_file()

    def append(before: str) -> str:
        parse_registry(before + text, f"{path}, with {folder} added")
        return before + text

    if not write:
        append(path.read_text(encoding="utf-8"))
        return text.lstrip("\n")
    if not (path.parent / "pyproject.toml").is_file():
        raise UsageError(
            "--write needs a git checkout of abatis",
            where=str(path),
            fix="leave it out; the entry is only printed then",
        )
    change_text(path, append)
    return text.lstrip("\n")


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    file = folder / "pyproject.toml"
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder",
            fix="give the folder of a plugin, the one with pyproject.toml",
        )
    try:
        about = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"not a plugin: {type(error).__name__}: {error}",
            where=str(file),
            fix="give the folder of a plugin, the one with pyproject.toml",
        ) from error
    project, described = about.get("project", {}), about.get("tool", {}).get("abatis", {})
    points = project.get("entry-points", {}).get(hooks.ENTRY_POINT_GROUP, {})
    if not points:
        raise UsageError(
            f"no entry point in the group {hooks.ENTRY_POINT_GROUP}",
            where=str(file),
            fix="add one; docs/writing-a-plugin.md has an example",
        )
    if missing := [key for key in DESCRIBED if key not in described and key != "evidence"]:
        raise UsageError(
            f"the table [tool.abatis] lacks {', '.join(missing)}",
            where=str(file),
            fix="add one sentence for each, for people who choose a method",
        )
    if placeholders := [key for key in DESCRIBED if _is_placeholder(described.get(key))]:
        raise UsageError(
            f"the table [tool.abatis] still has the template's text for {', '.join(placeholders)}",
            where=str(file),
            fix="write what is true of your method, for people who choose one",
        )
    for name, target in points.items():
        plugin = _load(folder, discovery.normalise_name(name), target)
        yield _entry(plugin, project, described, str(file))


def _is_placeholder(value: object) -> bool:
    return isinstance(value, str) and (not value.strip() or "TODO" in value)


def _entry(
    plugin: discovery.Plugin, project: Mapping[str, Any], described: Mapping[str, Any], where: str
) -> dict[str, Any]:
    urls = {key.lower(): url for key, url in project.get("urls", {}).items()}
    try:
        method = Method.model_validate(
            {
                "name": plugin.name,
                "community": True,
                "distribution": project.get("name"),
                "homepage": urls.get("homepage") or next(iter(urls.values()), None),
                "hooks": list_hooks(plugin.module),
                "options": list_defaults(plugin.config_class),
                "evidence": "None in this repository.",
                **{key: described[key] for key in DESCRIBED if key in described},
            }
        )
    except ValidationError as error:
        raise UsageError(
            explain(error, Method), where=where, fix="correct the table [tool.abatis]"
        ) from error
    return method.model_dump(mode="json", exclude_defaults=True)


def _load(folder: Path, name: str, target: str) -> discovery.Plugin:
    try:
        with _importable(folder):
            module: object = importlib.import_module(target.partition(":")[0])
            for part in filter(None, target.partition(":")[2].split(".")):
                module = getattr(module, part)
            return discovery.make_plugin(name, module)
    except AbatisError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin '{name}' cannot be imported: {type(error).__name__}: {error}",
            where=str(folder),
            fix="fix the module; PluginContract tests everything else",
        ) from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put the folder's modules first on the import path."""
    places = [str((folder / "src").resolve()), str(folder.resolve())]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            sys.path.remove(place)
