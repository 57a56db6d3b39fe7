"""Finding and loading plugins.

Listing reads entry points and distribution metadata only; a plugin's own code runs when it is named, and not before.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pluggy
from pydantic import ValidationError

from abatis import hooks
from abatis.config import PluginConfig, RunConfig
from abatis.errors import AbatisError, PluginError, UsageError, did_you_mean


@dataclass(frozen=True)
class Installed:
    """A plugin that is installed, as its distribution describes it."""

    name: str
    distribution: str
    version: str
    summary: str
    entry_point: importlib.metadata.EntryPoint


@dataclass(frozen=True)
class Plugin:
    """A plugin that is loaded: its hooks and the class of its options."""

    name: str
    version: str
    module: object
    config_class: type[PluginConfig]


def normal(name: str) -> str:
    """One spelling of a plugin's name: hyphens."""
    return str(name).replace("_", "-")


def canonical(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted names without repetition: the order they were given in changes nothing."""
    return tuple(sorted({normal(name) for name in names}))


@cache
def installed() -> Mapping[str, Installed]:
    """Every installed plugin by name; raises UsageError where two distributions claim the same name."""
    found: dict[str, Installed] = {}
    for entry in importlib.metadata.entry_points(group=hooks.ENTRY_POINT_GROUP):
        if entry.dist is None:
            continue
        name, dist = normal(entry.name), entry.dist
        plugin = Installed(name, dist.name, dist.version, dist.metadata["Summary"] or "", entry)
        other = found.setdefault(name, plugin)
        if other.distribution != plugin.distribution:
            raise UsageError(
                f"two distributions provide a plugin named '{name}': {other.distribution} and {plugin.distribution}",
                fix=f"uninstall one: pip uninstall {plugin.distribution}",
            )
    return dict(sorted(found.items()))


@cache
def load(name: str) -> Plugin:
    """Import one plugin; raises UsageError for an unknown name, PluginError for one that cannot be imported or used."""
    known = installed()
    name = normal(name)
    if name not in known:
        raise UsageError(f"unknown plugin '{name}': {did_you_mean(name, known)}", fix="defense registry list shows them all")
    entry = known[name]
    try:
        module: object = entry.entry_point.load()
        return describe(name, module, entry.version)
    except AbatisError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin '{name}' cannot be imported: {type(error).__name__}: {error}",
            where=f"{entry.distribution} {entry.version}, {entry.entry_point.value}",
            fix=f"mend or reinstall {entry.distribution}; runs without this plugin are not affected",
        ) from error


def describe(name: str, module: object, version: str = "") -> Plugin:
    """A module with hooks as a plugin; checks its hooks and asks for its options' class."""
    wanted = str(getattr(module, "DEFENSE_API", hooks.DEFENSE_API))
    if wanted.partition(".")[0] != hooks.DEFENSE_API.partition(".")[0]:
        raise PluginError(f"plugin '{name}' is written for DEFENSE_API {wanted}, this core has {hooks.DEFENSE_API}",
                          fix="install a version of the plugin, or of abatis, that fits")  # fmt: skip
    manager = make_manager([(name, module)])
    if isinstance(module, type):
        raise PluginError(f"plugin '{name}' is a class; register a module or an instance")
    config_class = manager.hook.defense_config() or PluginConfig
    if not (isinstance(config_class, type) and issubclass(config_class, PluginConfig)):
        raise PluginError(f"plugin '{name}': defense_config returned {config_class!r}, not a subclass of PluginConfig")
    if normal(name) in {normal(field) for field in RunConfig.model_fields}:
        raise PluginError(f"plugin '{name}' has the name of a core option", fix="rename its entry point")
    return Plugin(name, version, module, config_class)


def make_manager(modules: Iterable[tuple[str, object]]) -> pluggy.PluginManager:
    """A pluggy manager with these plugins; a misspelt or ill-formed hook is an error that names it."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    specs = [name for name in vars(hooks) if name.startswith("defense_")]
    for name, module in modules:
        try:
            manager.register(module, name=name)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"plugin '{name}': {error}", fix="docs/hooks.md lists the hooks and their arguments") from error
        for hook in _marked(module) - set(specs):
            raise PluginError(f"plugin '{name}' has an unknown hook '{hook}': {did_you_mean(hook, specs)}")
    manager.check_pending()
    return manager


def _marked(module: object) -> set[str]:
    """Names of everything in a module that is marked as a hook implementation."""
    marker = f"{hooks.PROJECT}_impl"
    return {name for name in dir(module) if hasattr(getattr(module, name, None), marker)}


def options_of(plugin: Plugin, raw: Mapping[str, Any] | PluginConfig) -> PluginConfig:
    """Validate one plugin's options; raises UsageError with the option's path."""
    if isinstance(raw, plugin.config_class):
        return raw
    try:
        return plugin.config_class.model_validate(raw)
    except ValidationError as error:
        raise UsageError(explain(error, plugin.config_class, plugin.name)) from error


def explain(error: ValidationError, model: type[Any], prefix: str = "") -> str:
    """The first complaint of a validation, as ``path: what is wrong, got value``."""
    first = error.errors(include_url=False)[0]
    path = ".".join([*([prefix] if prefix else []), *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        fields = _fields_at(model, first["loc"][:-1])
        return f"unknown option '{path}': {did_you_mean(str(first['loc'][-1]), fields)}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if isinstance(first["input"], Mapping) else f" (got {first['input']!r})"
    more = f" [and {error.error_count() - 1} more]" if error.error_count() > 1 else ""
    return f"{path}: {message}{got}{more}"


def _fields_at(model: type[Any], path: Iterable[object]) -> list[str]:
    for part in path:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)
