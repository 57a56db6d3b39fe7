"""The contract between the core and plugins: six hooks, each called once when a run starts.

A plugin is a module with functions of these names, marked ``@hookimpl``, and an entry point in the
group ``abatis.plugins``. A hook returns a plain callable or object, and that is what the training
loop calls; pluggy never appears there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from abatis.api.context import AdaptiveAttack, Attacker, Loss, Regularizer, TrainerHooks
    from abatis.api.options import PluginConfig
    from abatis.api.run import Run

PROJECT = "abatis"
ENTRY_POINT_GROUP = "abatis.plugins"
DEFENSE_API = "1.1"
"""Version of this contract. A plugin works with every core of the same major version."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def defense_config() -> type[PluginConfig]:
    """Return the class of the plugin's options. A plugin without this hook has no options."""
    raise NotImplementedError


@hookspec(firstresult=True)
def defense_attacker(run: Run) -> Attacker | None:
    """Return the attack of the training step.

    Only one plugin of a run may answer. Without an answer the attack is PGD on the cross-entropy.
    """


@hookspec(firstresult=True)
def defense_loss(run: Run) -> Loss | None:
    """Return the base loss.

    Only one plugin of a run may answer. Without an answer the loss is the cross-entropy at the
    adversarial images.

    With ``@hookimpl(wrapper=True)`` the hook is a generator that changes the terms of the chosen
    loss: ``inner = yield``, then return a new loss. A wrapper that scales terms adds
    ``tryfirst=True``, so that it stays outside of those that switch terms.
    """


@hookspec
def defense_regularizer(run: Run) -> Regularizer | None:
    """Return terms that are added to the base loss. Any number of plugins may answer."""


@hookspec
def defense_trainer(run: Run) -> TrainerHooks | None:
    """Return callbacks around the update and at epoch ends. Any number of plugins may answer."""


@hookspec
def defense_adaptive_attack(run: Run) -> AdaptiveAttack | None:
    """Return an attack against this defense, which the evaluation runs in addition to its own.

    Any number of plugins may answer.
    """
