"""``--trace``: every hook call at start-up, who was asked and what was answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

from abatis.config.discovery import Plugin

Say = Callable[[str], None]


def trace_hooks(manager: pluggy.PluginManager, loaded: Sequence[Plugin], say: Say) -> None:
    """Say what loading the plugins asked, and from now on every hook call of a manager."""
    for plugin in loaded:
        if hasattr(plugin.module, "defense_config"):
            say(
                f"trace: defense_config asked {plugin.name}: {describe_answer(plugin.config_class)}"
            )
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
        names = ", ".join(
            f"{impl.plugin_name} (wrapper)" if impl.wrapper else impl.plugin_name
            for impl in reversed(asked)
        )
        if outcome.exception is not None:
            answer = f"{type(outcome.exception).__name__}: {outcome.exception}"
        else:
            result = outcome.get_result()
            if isinstance(result, list):  # of a hook that several plugins may answer
                result = next(iter(result), None)
            answer = describe_answer(result)
        say(f"trace: {hook} asked {names}: {answer}")

    manager.add_hookcall_monitoring(before, after)


def describe_answer(answer: object) -> str:
    """Where the function, class or object that a hook returned is defined."""
    if answer is None:
        return "nothing"
    named: Any = answer if hasattr(answer, "__qualname__") else type(answer)
    return f"{named.__module__}.{named.__qualname__}"
