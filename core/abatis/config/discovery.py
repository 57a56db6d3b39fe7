"""Finding and loading plugins: installed distributions with an entry point, and single files.

Listing reads entry points and the metadata of distributions only. A plugin's own code runs once it
is named, not before.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from abatis.api import hooks
from abatis.api.options import PluginConfig
from abatis.config.built_in import ATTACKS, JUDGED, LOSSES
from abatis.config.hook_checks import make_manager
from abatis.config.known_plugins import check_is_unknown
from abatis.config.pydantic_messages import as_usage_error
from abatis.errors import AbatisError, PluginError, UsageError, did_you_mean
from abatis.system.user_module import place_in, run_file

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RESERVED_WORDS = frozenset({"at", "mixing", *JUDGED, *ATTACKS, *LOSSES})
"""What plans and comparisons call parts that are built in: no plugin may have such a name."""


@dataclass(frozen=True)
class Installed:
    """An installed plugin, as its distribution describes it."""

    name: str
    distribution: str
    version: str
    summary: str
    entry_point: importlib.metadata.EntryPoint
    rival: str = ""  # another distribution with a plugin of this name


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin: its hooks and the class of its options.

    Args:
        name: Its name, with hyphens.
        version: That of its distribution, or ``sha256:...`` of its file.
        module: What holds its hooks.
        config_class: The class of its options.
        summary: One sentence about it.
        file: The file, where it is a single one.
    """

    name: str
    version: str
    module: object
    config_class: type[PluginConfig]
    summary: str = ""
    file: Path | None = None


def parse_names(value: object) -> list[str]:
    """Names of plugins, given as a list or as a text with commas; raises UsageError."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return list(value)
    raise UsageError(f"plugin must be a name or a list of names, not {value!r}")


def is_file(plugin: str) -> bool:
    """Is a plugin given as the path of a file, not by name?"""
    return plugin.endswith(".py") or "/" in plugin or "\\" in plugin


def get_plugin_name(plugin: str) -> str:
    """The name of a plugin that is given by name or by file."""
    return normalise_name(Path(plugin).stem if is_file(plugin) else plugin)


def normalise_name(name: str) -> str:
    """A plugin's name with hyphens for underscores."""
    return str(name).replace("_", "-")


def normalise_plugins(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names and paths by name, without duplicates: the order given is irrelevant."""
    spelled = {
        Path(name).as_posix() if is_file(name) else normalise_name(name) for name in map(str, names)
    }
    return tuple(sorted(spelled, key=lambda plugin: (get_plugin_name(plugin), plugin)))


def find_name_fault(name: str, reserved: Collection[str]) -> str | None:
    """Why a plugin may not have this name; None where it may.

    Args:
        name: The name, with hyphens.
        reserved: Names of core options.
    """
    if not NAME.fullmatch(name):
        return (
            "a plugin's name consists of lower-case letters, digits and single hyphens, and begins"
            " with a letter"
        )
    if name in reserved:
        return "it is the name of a core option"
    return "it is the name of something built in" if name in RESERVED_WORDS else None


@cache
def list_installed() -> Mapping[str, Installed]:
    """Every installed plugin by name.

    Where two distributions share a name, it is the first one's, and names the other as its rival.
    """
    found: dict[str, Installed] = {}
    for entry in importlib.metadata.entry_points(group=hooks.ENTRY_POINT_GROUP):
        if entry.dist is None:
            continue
        name, dist = normalise_name(entry.name), entry.dist
        plugin = Installed(name, dist.name, dist.version, dist.metadata["Summary"] or "", entry)
        other = found.setdefault(name, plugin)
        if other.distribution != plugin.distribution:
            found[name] = replace(other, rival=plugin.distribution)
    return dict(sorted(found.items()))


def load_plugins(
    names: Iterable[str], fresh: bool = False, reserved: Collection[str] = ()
) -> tuple[Plugin, ...]:
    """Load every plugin named, in the order of their names.

    Args:
        names: Names and paths.
        fresh: Read files again. Otherwise a file is used as this process first read it, which
            is what the run's plan shows.
        reserved: Names of core options, which no plugin may have.

    Raises:
        UsageError: where two have the same name, and as :func:`load_plugin`.
        PluginError: as :func:`load_plugin`.
    """
    specs = normalise_plugins(names)
    for one, other in pairwise(specs):
        if get_plugin_name(one) == get_plugin_name(other):
            raise UsageError(
                f"two plugins are named '{get_plugin_name(one)}': {one} and {other}",
                fix="rename one of the files",
            )
    return tuple(load_plugin(spec, fresh, reserved) for spec in specs)


def load_plugin(name: str, fresh: bool = False, reserved: Collection[str] = ()) -> Plugin:
    """Import one plugin, by name or file; see :func:`load_plugins`.

    Raises:
        UsageError: where there is no such plugin.
        PluginError: where it cannot be used.
    """
    if not is_file(name):
        plain = normalise_name(name)
        wrong = find_name_fault(plain, reserved) if plain in list_installed() else None
        if wrong:
            raise PluginError(
                f"the installed plugin '{plain}' has a name that is not allowed: {wrong}",
                where=list_installed()[plain].distribution,
                fix="rename its entry point",
            )
        return _load_installed(plain)
    path = Path(name).expanduser().absolute()
    if fresh or path not in _sources:
        _sources[path] = _read_plugin_file(path, reserved)
    return _load_file(path, _sources[path])


_sources: dict[Path, bytes] = {}
"""The plugin files that this process has read."""


@cache
def _load_installed(name: str) -> Plugin:
    known = list_installed()
    if name not in known:
        check_is_unknown(name)
        raise UsageError(
            f"unknown plugin '{name}': {did_you_mean(name, known)}",
            fix="defense registry list shows all plugins; a file needs its path, ./NAME.py",
        )
    entry = known[name]
    if entry.rival:
        raise UsageError(
            f"two distributions provide a plugin named '{name}':"
            f" {entry.distribution} and {entry.rival}",
            fix=f"uninstall one: pip uninstall {entry.rival}",
        )
    try:
        module: object = entry.entry_point.load()
        return make_plugin(name, module, entry.version, entry.summary)
    except AbatisError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin '{name}' cannot be imported: {type(error).__name__}: {error}",
            where=f"{entry.distribution} {entry.version}, {entry.entry_point.value}",
            fix=f"fix or reinstall {entry.distribution}; runs without this plugin are not affected",
        ) from error


def _read_plugin_file(path: Path, reserved: Collection[str]) -> bytes:
    """The content of a plugin's file; raises UsageError for a missing file or a bad name."""
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(
            f"no plugin file {path.name}",
            where=str(path),
            fix="give the path of a .py file; relative paths start in the working directory",
        )
    name = get_plugin_name(path.name)
    taken = (
        f"the installed {list_installed()[name].distribution} has that name"
        if name in list_installed()
        else None
    )
    if wrong := find_name_fault(name, reserved) or taken:
        raise UsageError(
            f"the plugin in {path.name} would be named '{name}': {wrong}",
            where=str(path),
            fix="rename the file; a plugin has the name of its file",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the plugin file {path.name}: {error.strerror}", where=str(path)
        ) from error


@cache
def _load_file(path: Path, source: bytes) -> Plugin:
    name = get_plugin_name(path.name)
    try:
        module = run_file(path, f"abatis_file_{path.stem}", source)
        version = f"sha256:{hashlib.sha256(source).hexdigest()}"
        summary = (module.__doc__ or "").strip().partition("\n")[0]
        return make_plugin(name, module, version, summary, path)
    except AbatisError as error:
        raise type(error)(
            error.what, where=error.where or str(path), fix=error.fix
        ) from error.__cause__
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin '{name}' cannot be imported: {type(error).__name__}: {error}",
            where=place_in(path, error),
            fix="fix the file",
        ) from error


def make_plugin(
    name: str, module: object, version: str = "", summary: str = "", file: Path | None = None
) -> Plugin:
    """A plugin from a module with hooks: checks the hooks and asks for the class of the options."""
    caught: list[warnings.WarningMessage] = []
    manager = make_manager([(name, module)], caught)
    for warning in caught:  # pluggy says where, but not in which plugin
        text = f"plugin '{name}': {warning.message}"
        warnings.warn_explicit(text, warning.category, warning.filename, warning.lineno)
    if isinstance(module, type):
        raise PluginError(f"plugin '{name}' is a class; register a module or an instance")
    config_class = manager.hook.defense_config() or PluginConfig
    if not (isinstance(config_class, type) and issubclass(config_class, PluginConfig)):
        raise PluginError(
            f"plugin '{name}': defense_config returned {config_class!r},"
            " which is not a subclass of PluginConfig"
        )
    return Plugin(name, version, module, config_class, summary, file)


def validate_options(plugin: Plugin, raw: Mapping[str, Any] | PluginConfig) -> PluginConfig:
    """Validate the options of one plugin; raises UsageError with the option's path."""
    if isinstance(raw, plugin.config_class):
        return raw
    try:
        return plugin.config_class.model_validate(raw)
    except ValidationError as error:
        raise as_usage_error(error, plugin.config_class, plugin.name) from error
