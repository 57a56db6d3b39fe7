"""``--trace``: every hook call at start-up and who answered what, and the callables in the order in which a step calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

from abatis.config.discovery import Plugin

Say = Callable[[str], None]


def follow(manager: pluggy.PluginManager, loaded: Sequence[Plugin], say: Say) -> None:
    """Say what loading asked, and from now on every hook call of a manager: the hook, who was asked, and the answer."""
    for plugin in loaded:
        if hasattr(plugin.module, "defense_config"):
            say(f"trace: defense_config asked {plugin.name}: {described(plugin.config_class)}")
        if not manager.has_plugin(plugin.name):
            say(f"trace: {plugin.name} is switched off by its options, and asked nothing more")

    def before(hook: str, asked: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]) -> None:
        """pluggy wants one."""

    def after(
        outcome: pluggy.Result[Any],
        hook: str,
        asked: Sequence[pluggy.HookImpl],
        arguments: Mapping[str, Any],
    ) -> None:
        whom = ", ".join(
            f"{impl.plugin_name} (wrapper)" if impl.wrapper else impl.plugin_name
            for impl in reversed(asked)
        )
        if outcome.exception is not None:
            answer = f"{type(outcome.exception).__name__}: {outcome.exception}"
        else:
            result = outcome.get_result()
            answer = described(next(iter(result), None) if isinstance(result, list) else result)
        say(f"trace: {hook} asked {whom}: {answer}")

    manager.add_hookcall_monitoring(before, after)


def described(answer: object) -> str:
    """What a hook answered: where the function, class or object is from."""
    if answer is None:
        return "nothing"
    named: Any = answer if hasattr(answer, "__qualname__") else type(answer)
    return f"{named.__module__}.{named.__qualname__}"
