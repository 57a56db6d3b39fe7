"""Recipes: TOML files that a plugin ships in its package, each a whole setting, every value marked with its source.

``PLUGIN/NAME`` is the file ``recipes/NAME.toml`` beside the plugin's module; ``at/NAME`` is the core's, adversarial training
without a plugin. No plugin is imported to find it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from abatis.config import discovery
from abatis.errors import UsageError, did_you_mean

CORE = "at"


def recipes_of(name: str) -> dict[str, Path]:
    """The recipes of one installed plugin, or the core's, by ``plugin/recipe``; a single file has none."""
    if name == CORE:
        return _listed(CORE, Path(__file__).parent / CORE)
    if discovery.is_file(name):
        return {}
    module = discovery.installed()[name].entry_point.value.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (
        Exception,
        SystemExit,
    ):  # it lies in a package, whose code runs now; the plugin says so itself when it is used
        spec = None
    return _listed(name, Path(spec.origin).parent) if spec and spec.origin else {}


def _listed(name: str, package: Path) -> dict[str, Path]:
    return {f"{name}/{path.stem}": path for path in sorted((package / "recipes").glob("*.toml"))}


def recipe_file(name: str) -> Path:
    """The file of ``plugin/recipe``; raises UsageError."""
    plugin, _, _ = name.partition("/")
    known = {*discovery.installed(), CORE}
    if discovery.normal(plugin) not in known:
        raise UsageError(
            f"unknown recipe '{name}': {did_you_mean(plugin, known)}", fix="write PLUGIN/RECIPE"
        )
    found = recipes_of(discovery.normal(plugin))
    if name not in found:
        raise UsageError(
            f"unknown recipe '{name}': {did_you_mean(name, found)}",
            fix=f"defense registry show {plugin}",
        )
    return found[name]
