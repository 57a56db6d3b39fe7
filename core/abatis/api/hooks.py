"""The contract between the core and plugins: seven hooks, each called once when a run starts.

A plugin is a module with functions of these names, marked ``@hookimpl``, and an entry point in the
group ``abatis.plugins``. A hook returns a plain callable or object, and that is what the training
loop calls; pluggy never appears there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from torch import nn

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


@hookspec
def defense_network(run: Run, module: nn.Module) -> nn.Module | None:
    """Return the network, changed: other layers, norms or a head, frozen parameters. New in 1.1.

    Any number of plugins may answer, in the order of their names; each gets what the one before it
    returned. They are asked after the network was built and its pretrained weights were loaded,
    before ``--init``, and asked again, with the same options, wherever the run's network is built:
    when it resumes, is evaluated, compared, loaded or exported. The global random generators are
    seeded before each call.

    Args:
        run: the run; it has no ``net`` yet.
        module: images (B, C, H, W) in [0, 1] to logits (B, K).

    Returns:
        A module of the same kind, which may be the given one. Where it has a method ``plain() ->
        nn.Module``, export writes that network, which must give the same logits in eval mode.
    """


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
