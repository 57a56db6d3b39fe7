"""Recipes: TOML files shipped with a plugin, with all settings of a run and the source of each.

``PLUGIN/NAME`` is the file ``recipes/NAME.toml`` beside the plugin's module; ``at/NAME`` is built
in: adversarial training without a plugin. No plugin is imported to find it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from abatis.config import discovery
from abatis.config.known_plugins import check_is_unknown
from abatis.errors import UsageError, did_you_mean

CORE = "at"


def list_recipes(name: str) -> dict[str, Path]:
    """The recipes of an installed plugin, or those built in, by ``PLUGIN/NAME``.

    A plugin that is a single file has none.
    """
    if name == CORE:
        return _list_files(CORE, Path(__file__).parent / CORE)
    if discovery.is_file(name):
        return {}
    module = discovery.list_installed()[name].entry_point.value.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (Exception, SystemExit):
        # finding a module imports its package; what fails there is reported when the plugin is used
        spec = None
    return _list_files(name, Path(spec.origin).parent) if spec and spec.origin else {}


def _list_files(name: str, package: Path) -> dict[str, Path]:
    return {f"{name}/{path.stem}": path for path in sorted((package / "recipes").glob("*.toml"))}


def find_recipe(name: str) -> Path:
    """The file of the recipe ``PLUGIN/NAME``; raises UsageError."""
    plugin, _, _ = name.partition("/")
    known = {*discovery.list_installed(), CORE}
    if discovery.normalise_name(plugin) not in known:
        check_is_unknown(discovery.normalise_name(plugin), f"the recipe '{name}' is part of it")
        raise UsageError(
            f"unknown recipe '{name}': {did_you_mean(plugin, known)}", fix="write PLUGIN/NAME"
        )
    found = list_recipes(discovery.normalise_name(plugin))
    if name not in found:
        raise UsageError(
            f"unknown recipe '{name}': {did_you_mean(name, found)}",
            fix=f"the recipes of {plugin} are {', '.join(found)}" if found else None,
        )
    return found[name]
