"""Asking the plugins' hooks, one plugin at a time, and checking what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pluggy
from torch import nn

from abatis.api.context import Loss, TrainerHooks
from abatis.api.hooks import hookimpl
from abatis.api.randomness import seeded
from abatis.api.run import Run
from abatis.errors import PluginError
from abatis.system.plugin_errors import blame_plugin


def list_implementers(manager: pluggy.PluginManager, role: str) -> list[str]:
    """Plugins with a hook for a role, without wrappers, in the order of their names."""
    caller = getattr(manager.hook, f"defense_{role}")
    return sorted(impl.plugin_name for impl in caller.get_hookimpls() if not impl.wrapper)


def list_loss_wrappers(manager: pluggy.PluginManager) -> list[str]:
    """Plugins that wrap the loss."""
    impls = manager.hook.defense_loss.get_hookimpls()
    return [impl.plugin_name for impl in impls if impl.wrapper]


def ask_hook(manager: pluggy.PluginManager, role: str, name: str, run: Run, **more: object) -> Any:
    """One plugin's own answer to one hook, without wrappers; None where it provides nothing.

    Raises:
        PluginError: The hook failed, or its answer cannot be called.
    """
    others = [plugin for other, plugin in manager.list_name_plugin() if other != name]
    drawn = seeded(run.random.seed, f"{role}/{name}")  # initial weights that the hook makes
    with drawn, blame_plugin(name, f"defense_{role} hook"):
        answer = manager.subset_hook_caller(f"defense_{role}", remove_plugins=others)(
            run=run, **more
        )
    if isinstance(answer, list):  # of a hook that several plugins may answer
        answer = next(iter(answer), None)
    if answer is not None:
        _check_answer(answer, role, name, manager)
    return answer


def _check_answer(answer: object, role: str, name: str, manager: pluggy.PluginManager) -> None:
    if role == "trainer":
        fits, wanted = isinstance(answer, TrainerHooks), "a subclass of TrainerHooks"
    elif role == "network":
        fits, wanted = isinstance(answer, nn.Module), "a module, or None"
    else:
        fits, wanted = callable(answer), "a function, or an object with __call__"
    if not fits:
        code = getattr(manager.get_plugin(name), f"defense_{role}").__code__
        raise PluginError(
            f"plugin '{name}': defense_{role} returned {answer!r}",
            where=f"{code.co_filename}:{code.co_firstlineno}",
            fix=f"return {wanted}",
        )


def ask_all(manager: pluggy.PluginManager, role: str, run: Run) -> list[tuple[str, Any]]:
    """Names and answers of all plugins that provide something for a role."""
    names = list_implementers(manager, role)
    answers = [(name, ask_hook(manager, role, name, run)) for name in names]
    return [(name, answer) for name, answer in answers if answer is not None]


def wrap_loss(manager: pluggy.PluginManager, wrappers: Sequence[str], loss: Loss, run: Run) -> Loss:
    """The loss inside every wrapper, in the order of their names (``tryfirst`` ones outermost)."""

    class Chosen:
        """In the provider's place, so that wrappers run around its loss and no hook runs twice."""

        @hookimpl
        def defense_loss(self) -> Loss:
            return loss

    if not wrappers:
        return loss
    names = " and ".join(sorted(wrappers))
    others = [plugin for name, plugin in manager.list_name_plugin() if name not in wrappers]
    manager.register(Chosen(), name="the chosen loss")
    with blame_plugin(names, "defense_loss wrapper"):
        ask = manager.subset_hook_caller("defense_loss", remove_plugins=others)
        result: Loss | None = ask(run=run)
    manager.unregister(name="the chosen loss")
    if result is None or not callable(result):
        raise PluginError(
            f"the loss wrapper of {names} returned no loss",
            fix="inner = yield, then return a callable that takes the context",
        )
    return result
