"""Finding and loading plugins: distributions with an entry point, and single files.

Listing reads entry points and distribution metadata only; a plugin's own code runs when it is named, and not before.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from abatis.api import hooks
from abatis.api.options import PluginConfig
from abatis.config.hook_checks import make_manager
from abatis.errors import AbatisError, PluginError, UsageError, did_you_mean
from abatis.system.user_module import place_in, run_file

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
BUILT_IN = {
    "at",
    "pgd",
    "apgd",
    "none",
    "cross-entropy",
    "averaging",
    "mixing",
}  # words of plans and comparisons


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
    """A plugin that is loaded: its hooks and the class of its options.

    version: that of its distribution, or ``sha256:...`` of its file; file: where that lies.
    """

    name: str
    version: str
    module: object
    config_class: type[PluginConfig]
    summary: str = ""
    file: Path | None = None


def is_file(plugin: str) -> bool:
    """Is a plugin asked for by the path of a file, and not by its name?"""
    return plugin.endswith(".py") or "/" in plugin or "\\" in plugin


def name_of(plugin: str) -> str:
    """The name of a plugin that is asked for by name or by file."""
    return normal(Path(plugin).stem if is_file(plugin) else plugin)


def normal(name: str) -> str:
    """One spelling of a plugin's name: hyphens."""
    return str(name).replace("_", "-")


def canonical(names: Iterable[str]) -> tuple[str, ...]:
    """Names and paths in the order of the names, without repetition: the order they were given in changes nothing."""
    spelled = {Path(name).as_posix() if is_file(name) else normal(name) for name in map(str, names)}
    return tuple(sorted(spelled, key=lambda plugin: (name_of(plugin), plugin)))


def why_no_name(name: str, reserved: Collection[str]) -> str | None:
    """What is wrong with a plugin's name, spelled with hyphens; None where nothing is. reserved: names of core options."""
    if not NAME.fullmatch(name):
        return "a plugin's name is lower-case letters, digits and single hyphens, and begins with a letter"
    if name in reserved:
        return "it is the name of a core option"
    return "it stands for something built in" if name in BUILT_IN else None


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


def load_all(
    names: Iterable[str], fresh: bool = False, reserved: Collection[str] = ()
) -> tuple[Plugin, ...]:
    """Every plugin named, in the order of the names; raises UsageError where two have the same, and what load raises.

    fresh: read files anew. Else a file is what it was when this process read it, as the run's plan is.
    reserved: names of core options, which no plugin may have.
    """
    specs = canonical(names)
    for one, other in pairwise(specs):
        if name_of(one) == name_of(other):
            raise UsageError(
                f"two plugins are named '{name_of(one)}': {one} and {other}",
                fix="rename one of the files",
            )
    return tuple(load(spec, fresh, reserved) for spec in specs)


def load(name: str, fresh: bool = False, reserved: Collection[str] = ()) -> Plugin:
    """Import one plugin, by name or file; raises UsageError for an unknown one, PluginError for one that cannot be used."""
    if not is_file(name):
        if normal(name) in reserved and normal(name) in installed():
            raise PluginError(
                f"plugin '{name}' has the name of a core option", fix="rename its entry point"
            )
        return _load_installed(normal(name))
    path = Path(name).expanduser().absolute()
    if fresh or path not in _sources:
        _sources[path] = _read(path, reserved)
    return _load_file(path, _sources[path])


_sources: dict[Path, bytes] = {}
"""Plugins' files as this process has read them."""


@cache
def _load_installed(name: str) -> Plugin:
    known = installed()
    if name not in known:
        raise UsageError(
            f"unknown plugin '{name}': {did_you_mean(name, known)}",
            fix="defense registry list shows them all; a file is named by its path, ./NAME.py",
        )
    entry = known[name]
    try:
        module: object = entry.entry_point.load()
        return describe(name, module, entry.version, entry.summary)
    except AbatisError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin '{name}' cannot be imported: {type(error).__name__}: {error}",
            where=f"{entry.distribution} {entry.version}, {entry.entry_point.value}",
            fix=f"mend or reinstall {entry.distribution}; runs without this plugin are not affected",
        ) from error


def _read(path: Path, reserved: Collection[str]) -> bytes:
    """What is in a plugin's file; raises UsageError where there is none, or its name is none for a plugin."""
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(
            f"no plugin file {path.name}",
            where=str(path),
            fix="give the path of a .py file; relative paths begin in the working directory",
        )
    name = name_of(path.name)
    taken = (
        f"the installed {installed()[name].distribution} has that name"
        if name in installed()
        else None
    )
    if wrong := why_no_name(name, reserved) or taken:
        raise UsageError(
            f"the plugin in {path.name} would be named '{name}': {wrong}",
            where=str(path),
            fix="rename the file; the plugin has the name of its file",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the plugin file {path.name}: {error.strerror}", where=str(path)
        ) from error


@cache
def _load_file(path: Path, source: bytes) -> Plugin:
    name = name_of(path.name)
    try:
        module = run_file(path, f"abatis_file_{path.stem}", source)
        version = f"sha256:{hashlib.sha256(source).hexdigest()}"
        return describe(
            name, module, version, (module.__doc__ or "").strip().partition("\n")[0], path
        )
    except AbatisError as error:
        raise type(error)(
            error.what, where=error.where or str(path), fix=error.fix
        ) from error.__cause__
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin '{name}' cannot be imported: {type(error).__name__}: {error}",
            where=place_in(path, error),
            fix="mend the file",
        ) from error


def describe(
    name: str, module: object, version: str = "", summary: str = "", file: Path | None = None
) -> Plugin:
    """A module with hooks as a plugin; checks its hooks and asks for its options' class."""
    told: list[warnings.WarningMessage] = []
    manager = make_manager([(name, module)], told)
    for warning in told:  # pluggy says where, but not whose
        text = f"plugin '{name}': {warning.message}"
        warnings.warn_explicit(text, warning.category, warning.filename, warning.lineno)
    if isinstance(module, type):
        raise PluginError(f"plugin '{name}' is a class; register a module or an instance")
    config_class = manager.hook.defense_config() or PluginConfig
    if not (isinstance(config_class, type) and issubclass(config_class, PluginConfig)):
        raise PluginError(
            f"plugin '{name}': defense_config returned {config_class!r}, not a subclass of PluginConfig"
        )
    return Plugin(name, version, module, config_class, summary, file)


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
