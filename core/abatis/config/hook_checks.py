"""Registering plugins with pluggy, and the errors of those that do not keep to the hooks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

import pluggy

from abatis.api import hooks
from abatis.errors import PluginError, did_you_mean


def make_manager(
    modules: Iterable[tuple[str, object]], found: list[warnings.WarningMessage] | None = None
) -> pluggy.PluginManager:
    """A pluggy manager with these plugins.

    Args:
        modules: Their names, and what holds their hooks.
        found: Gets the warnings about deprecated hooks and arguments.

    Raises:
        PluginError: for a hook that is misspelt, not marked, or takes other arguments; it names
            the hook.
    """
    found = [] if found is None else found
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    specs = {name for name in vars(hooks) if name.startswith("defense_")}
    for name, module in modules:
        _check_version(name, module)
        _check_hooks(name, module, specs)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                manager.register(module, name=name)
            except (pluggy.PluginValidationError, ValueError) as error:
                fix = _newer(module) or "docs/hooks.md lists the hooks and their arguments"
                hook = re.search(r"hook '(\w+)'", str(error))
                where = _place(module, hook[1]) if hook else None
                raise PluginError(f"plugin '{name}': {error}", where=where, fix=fix) from error
        found.extend(caught)
    manager.check_pending()
    return manager


def _check_version(name: str, module: object) -> None:
    """Raise PluginError where a plugin is written for another major version of the contract."""
    wanted, here = _written_for(module), hooks.DEFENSE_API
    if not re.fullmatch(r"\d+(\.\d+)?", wanted):
        raise PluginError(
            f"plugin '{name}': DEFENSE_API is {wanted!r}, which is not a version",
            fix=f'DEFENSE_API = "{here}"',
        )
    if wanted.partition(".")[0] != here.partition(".")[0]:
        raise PluginError(
            f"plugin '{name}' is written for DEFENSE_API {wanted}, this core has {here}",
            fix="install a matching version of the plugin or of abatis",
        )


def _written_for(module: object) -> str:
    """The version of the contract that a plugin declares; this core's where it declares none."""
    return str(getattr(module, "DEFENSE_API", hooks.DEFENSE_API))


def _check_hooks(name: str, module: object, specs: Iterable[str]) -> None:
    """Raise PluginError for a plugin without hooks, and for an unmarked or an unknown hook."""
    looks = {attribute for attribute in dir(module) if attribute.startswith("defense_")}
    marked = {
        attribute
        for attribute in dir(module)
        if hasattr(getattr(module, attribute, None), f"{hooks.PROJECT}_impl")
    }
    for hook in sorted(looks - marked):
        raise PluginError(
            f"plugin '{name}': {hook} is not marked as a hook",
            where=_place(module, hook),
            fix=f"write @hookimpl above def {hook}",
        )
    for hook in sorted(marked - set(specs)):
        raise PluginError(
            f"plugin '{name}' has an unknown hook '{hook}': {did_you_mean(hook, specs)}",
            where=_place(module, hook),
            fix=_newer(module),
        )
    if not marked:
        raise PluginError(
            f"plugin '{name}' has no hooks",
            fix=f"mark a function with @hookimpl: {', '.join(sorted(specs))}",
        )


def _place(module: object, hook: str) -> str | None:
    """``PATH:LINE`` of a hook, where it is written in Python."""
    code = getattr(getattr(module, hook), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else None


def _newer(module: object) -> str | None:
    """What to do about a plugin written for a newer minor version, which may have new hooks."""
    wanted, here = _written_for(module), hooks.DEFENSE_API
    newer = [int(part) for part in wanted.split(".")] > [int(part) for part in here.split(".")]
    return (
        f"it is written for DEFENSE_API {wanted}, this core has {here}: update abatis"
        if newer
        else None
    )
