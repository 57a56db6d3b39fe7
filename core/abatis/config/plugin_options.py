"""From a whole configuration to the options of each plugin, validated by the plugin's own class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from abatis.api.options import use_underscores
from abatis.config import discovery
from abatis.config.known_plugins import check_is_unknown
from abatis.config.other_names import find_ours
from abatis.errors import UsageError, did_you_mean


def take_plugin_options(raw: Any, core: Collection[str], reserved: Collection[str]) -> Any:
    """A raw configuration with the plugins' tables moved into ``options``.

    Args:
        raw: What the user gave; returned as it is where it is not a table.
        core: Names of the core options.
        reserved: Names that no plugin may have.

    Raises:
        UsageError: for an unknown option, and for options of a plugin that is not selected.
        PluginError: where a plugin cannot be loaded.
    """
    raw = use_underscores(raw)
    if not isinstance(raw, Mapping):
        return raw
    asked = discovery.normalise_plugins(discovery.parse_names(raw.get("plugin", ())))
    names = {discovery.get_plugin_name(plugin) for plugin in asked}
    tables = _find_tables(raw, core, names)
    options = {
        plugin.name: discovery.validate_options(plugin, tables.get(plugin.name, {}))
        for plugin in discovery.load_plugins(asked, fresh=True, reserved=reserved)
    }
    kept = {key: value for key, value in raw.items() if key in core}
    return {**kept, "plugin": asked, "options": options}


def _find_tables(
    raw: Mapping[str, Any], core: Collection[str], selected: Collection[str]
) -> dict[str, Any]:
    """What was given for each selected plugin, by its name."""
    given = raw.get("options", {})
    if not isinstance(given, Mapping):
        raise UsageError(f"options: must be a table with a table for each plugin, not {given!r}")
    given = use_underscores(given, "options")
    tables = {discovery.normalise_name(key): value for key, value in given.items()}
    for key in raw.keys() - set(core):
        name = discovery.normalise_name(key)
        if name not in selected and name not in discovery.list_installed():
            check_is_unknown(name, f"option '{key}' belongs to it")
            if ours := find_ours(key):
                raise UsageError(f"unknown option '{key}': it is called {ours} here")
            known = [*core, *discovery.list_installed()]
            raise UsageError(f"unknown option '{key}': {did_you_mean(key, known)}")
        if name in tables:
            raise UsageError(
                f"the options of plugin '{name}' are given twice: as {key} and in options",
                fix="remove one of them",
            )
        tables[name] = raw[key]
    for name in tables.keys() - set(selected):
        raise UsageError(
            f"options are given for plugin '{name}', which is not selected",
            fix=f"add --plugin {name}",
        )
    return tables
