"""The contract between the core and every plugin: six hooks, each called once, each returning a plain callable.

A plugin is a module with functions of these names, marked ``@hookimpl`` and announced by an entry point in the group
``abatis.plugins``. Hooks *make*; what they make is called in the training loop, and pluggy never appears there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from abatis.api.context import AdaptiveAttack, Attacker, Loss, Regularizer, Run, TrainerHooks
    from abatis.api.options import PluginConfig

PROJECT = "abatis"
ENTRY_POINT_GROUP = "abatis.plugins"
DEFENSE_API = "1.0"
"""Version of this contract. A plugin works with every core of the same major version."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def defense_config() -> type[PluginConfig]:
    """The class of this plugin's options. At most one a plugin; without it the plugin has none."""
    raise NotImplementedError


@hookspec(firstresult=True)
def defense_attacker(run: Run) -> Attacker | None:
    """The attack of the training step. Exactly one plugin may answer; without an answer it is PGD on the cross-entropy."""


@hookspec(firstresult=True)
def defense_loss(run: Run) -> Loss | None:
    """The base loss. Exactly one plugin may answer; without an answer it is the cross-entropy at the adversarial images.

    With ``@hookimpl(wrapper=True)`` it is a generator that changes the terms of the chosen loss: ``inner = yield``, then
    return a new loss. A wrapper that scales terms adds ``tryfirst=True``, so that it stays outside those that switch terms.
    """


@hookspec
def defense_regularizer(run: Run) -> Regularizer | None:
    """Terms that are added to the base loss. Any number of plugins may answer; the terms are summed."""


@hookspec
def defense_trainer(run: Run) -> TrainerHooks | None:
    """Callbacks around the update and at epoch ends. Any number of plugins may answer."""


@hookspec
def defense_adaptive_attack(run: Run) -> AdaptiveAttack | None:
    """An attack against this very defense, which the evaluator runs besides its own. Any number of plugins may answer."""
