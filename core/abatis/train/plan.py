"""What a run is made of: the hooks are asked once, their callables are put in order, and conflicts are named.

The plan is printed before the run; ``--dry-run`` stops there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pluggy
import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.api.context import (
    AdaptiveAttack,
    Attacker,
    Loss,
    Network,
    Regularizer,
    Run,
    StepContext,
    TrainerHooks,
)
from abatis.api.hooks import hookimpl
from abatis.api.options import PluginConfig
from abatis.api.term import Term, Terms
from abatis.config.discovery import Plugin, normal
from abatis.config.hook_checks import make_manager
from abatis.config.plan_row import BUILT_IN, PlanRow
from abatis.errors import PluginConflict, PluginError, UsageError, did_you_mean
from abatis.system.plugin_errors import blamed
from abatis.train.builtin.apgd import APGDAttacker
from abatis.train.builtin.cross_entropy import cross_entropy
from abatis.train.builtin.pgd import NoAttacker, PGDAttacker
from abatis.train.side_effect_checks import SideEffectChecks
from abatis.train.trace import Say, follow

BUILTIN = {"attacker": ("pgd", "none", "apgd"), "loss": ("cross-entropy",)}
"""Providers that need no plugin; the first of each role is its default."""


@dataclass(frozen=True)
class Plan:
    """One attacker, one loss (with its wrappers), any number of regularizers and trainer hooks.

    hard_labels: plugins that are defined for one label a sample only;
    adaptive: attacks that plugins bring against themselves, by plugin; only the evaluation runs them.
    """

    attacker: Attacker
    loss: Loss
    regularizers: tuple[tuple[str, Regularizer], ...]
    trainers: tuple[tuple[str, TrainerHooks], ...]
    rows: tuple[PlanRow, ...]
    attacker_name: str
    loss_name: str
    clean_first: bool
    needs_double_backward: bool
    hard_labels: tuple[str, ...]
    adaptive: Mapping[str, AdaptiveAttack]
    conduct: SideEffectChecks = field(default_factory=SideEffectChecks)

    @property
    def versions(self) -> dict[str, str]:
        """The version of each plugin of the run, by its name."""
        return {row.provider: row.version for row in self.rows if row.version != BUILT_IN}

    def check_labels(self, soft: bool) -> None:
        """Raise PluginConflict where labels are soft and a plugin of the run is not defined for such."""
        if soft and self.hard_labels:
            raise PluginConflict(
                f"mixed or smoothed labels, and {', '.join(self.hard_labels)} is defined for one label a sample",
                fix="leave out what mixes or smooths them (--mix.*, or a plugin), or train with other plugins",
            )

    def with_trainer(
        self, name: str, hooks: TrainerHooks, row: PlanRow, first: bool = False
    ) -> Plan:
        """The plan with one more trainer hook, behind the others or before them."""
        trainers = ((name, hooks), *self.trainers) if first else (*self.trainers, (name, hooks))
        return replace(self, trainers=trainers, rows=(*self.rows, row))

    def terms(self, ctx: StepContext) -> dict[str, Term]:
        """All terms of one step, checked; those of a regularizer are named ``plugin/term``."""
        self.check_labels(ctx.batch.y_soft is not None)
        found = dict(self._asked(self.loss_name, "loss", self.loss, ctx))
        return found | self.penalties(ctx)

    def penalties(self, ctx: StepContext) -> dict[str, Term]:
        """The regularizers' terms alone."""
        found: dict[str, Term] = {}
        for name, regularizer in self.regularizers:
            terms = self._asked(name, "regularizer", regularizer, ctx)
            found.update({f"{name}/{key}": term for key, term in terms.items()})
        return found

    def _asked(self, name: str, role: str, function: Loss | Regularizer, ctx: StepContext) -> Terms:
        with self.watched(name, role, ctx.net, ctx.batch, adversarial_images=ctx.x_adv) as first:
            terms = checked(function(ctx), ctx, name)
            if first and any(weight.requires_grad for weight in ctx.net.module.parameters()):
                check_attached(terms, name)
        return terms

    @contextmanager
    def watched(
        self, plugin: str, role: str, net: Network, batch: Batch | None = None, **tensors: Tensor
    ) -> Iterator[bool]:
        """Around one call into a plugin: what it raises names it, and its first call must leave things as found."""
        if batch is not None:
            tensors |= {"images": batch.x, "labels": batch.y, "index": batch.index}
        with (
            blamed(plugin, role, self.versions),
            self.conduct.watched(plugin, role, net, **tensors) as first,
        ):
            yield first


def checked(terms: Terms, ctx: StepContext, plugin: str) -> Terms:
    """The same terms; raises PluginError where one has no legal shape or type."""
    if not isinstance(terms, Mapping) or not terms:
        raise PluginError(
            f"plugin '{plugin}' returned {type(terms).__name__} instead of named terms",
            fix='return {"name": Term(value)}',
        )
    size = len(ctx.batch)
    for name, term in terms.items():
        value = getattr(term, "value", None)
        if (
            not isinstance(term, Term)
            or not isinstance(value, torch.Tensor)
            or not value.is_floating_point()
        ):
            raise PluginError(
                f"plugin '{plugin}', term '{name}': not a Term with a floating-point tensor",
                fix='return {"name": Term(value)}',
            )
        if value.shape not in ((size,), ()):
            raise PluginError(
                f"plugin '{plugin}', term '{name}': its value has the shape {tuple(value.shape)}",
                where=f"a batch of {size} samples",
                fix=f"return one value a sample, ({size},), or a scalar, (), where samples have no value of their own",
            )
        if not math.isfinite(term.weight):
            raise PluginError(
                f"plugin '{plugin}', term '{name}': its weight is {term.weight}",
                fix="weights are finite",
            )
    return terms


def check_attached(terms: Terms, plugin: str) -> None:
    """Raise PluginError where terms have values and weights, but no gradient reaches the network."""
    if any(term.value.requires_grad for term in terms.values()) or not torch.is_grad_enabled():
        return
    counting = [
        name for name, term in terms.items() if term.weight and bool((term.value != 0).any())
    ]
    if counting:  # a term of zeros alone may be one that begins later
        raise PluginError(
            f"plugin '{plugin}': its terms do not depend on the network: {', '.join(counting)}",
            fix="do not detach the logits, and compute the terms with gradients enabled",
        )


def make_plan(
    loaded: Sequence[Plugin],
    options: Mapping[str, PluginConfig],
    use: Mapping[str, str],
    run: Run,
    say: Say | None = None,
) -> Plan:
    """Ask every hook once, and say so where that is asked for; raises PluginConflict, UsageError or PluginError."""
    active = [plugin for plugin in loaded if not options[plugin.name].is_neutral]
    manager = _manager(active, loaded, say)
    wanted = _wanted(use, loaded)
    loss_name, loss = _sole_provider(manager, "loss", wanted.get("loss"), run, dropped=set())
    losers = {name for name in _implementers(manager, "loss") if name != loss_name}
    attacker_name, attacker = _sole_provider(
        manager, "attacker", wanted.get("attacker"), run, dropped=losers
    )
    wrappers = [
        impl.plugin_name for impl in manager.hook.defense_loss.get_hookimpls() if impl.wrapper
    ]
    loss = _wrapped(manager, wrappers, loss or cross_entropy, run)
    if attacker is None:
        attacker = {"none": NoAttacker, "apgd": APGDAttacker}.get(attacker_name, PGDAttacker)(run)
    regularizers, trainers = (
        _collected(manager, "regularizer", run),
        _collected(manager, "trainer", run),
    )
    roles = {
        "attacker": [attacker_name],
        "loss": [loss_name],
        "loss wrapper": wrappers,
        "regularizer": [name for name, _ in regularizers],
        "trainer": [name for name, _ in trainers],
    }
    configs = {name: options[name] for names in roles.values() for name in names if name in options}
    adaptive = dict(_collected(manager, "adaptive_attack", run))
    roles["adaptive attack"] = list(adaptive)
    return Plan(
        attacker=attacker,
        loss=loss,
        regularizers=tuple(regularizers),
        trainers=tuple(trainers),
        rows=tuple(_rows(roles, loaded, options, run)),
        attacker_name=attacker_name,
        loss_name=loss_name,
        clean_first=any(config.needs_clean for config in configs.values()),
        needs_double_backward=any(config.needs_double_backward for config in configs.values()),
        hard_labels=tuple(name for name, config in configs.items() if not config.soft_labels),
        adaptive=adaptive,
    )


def _manager(
    active: Sequence[Plugin], loaded: Sequence[Plugin], say: Say | None
) -> pluggy.PluginManager:
    manager = make_manager((plugin.name, plugin.module) for plugin in active)
    if say is not None:
        follow(manager, loaded, say)
    return manager


def _wanted(use: Mapping[str, str], loaded: Sequence[Plugin]) -> dict[str, str]:
    """Roles and the providers that ``--use`` names; raises UsageError for one that is neither selected nor built in."""
    for role, provider in use.items():
        known = {*BUILTIN[role], *(plugin.name for plugin in loaded)}
        if normal(provider) not in known:
            raise UsageError(
                f"--use {role}={provider}: no such provider, {did_you_mean(provider, known)}"
            )
    return {role: normal(provider) for role, provider in use.items()}


def _implementers(manager: pluggy.PluginManager, role: str) -> list[str]:
    """Plugins with a hook of their own for a role, wrappers left out, in the order of their names."""
    caller = getattr(manager.hook, f"defense_{role}")
    return sorted(impl.plugin_name for impl in caller.get_hookimpls() if not impl.wrapper)


def _ask(manager: pluggy.PluginManager, role: str, name: str, run: Run) -> Any:
    """One plugin's own answer to one hook, without wrappers."""
    others = [plugin for other, plugin in manager.list_name_plugin() if other != name]
    with blamed(name, f"defense_{role} hook"):
        answer = manager.subset_hook_caller(f"defense_{role}", remove_plugins=others)(run=run)
    answer = (
        next(iter(answer), None) if isinstance(answer, list) else answer
    )  # a list where several may answer
    fits = isinstance(answer, TrainerHooks) if role == "trainer" else callable(answer)
    if answer is not None and not fits:
        code = getattr(manager.get_plugin(name), f"defense_{role}").__code__
        wanted = (
            "a subclass of TrainerHooks"
            if role == "trainer"
            else "a function, or an object with __call__"
        )
        raise PluginError(
            f"plugin '{name}': defense_{role} returned {answer!r}",
            where=f"{code.co_filename}:{code.co_firstlineno}",
            fix=f"return {wanted}",
        )
    return answer


def _sole_provider(
    manager: pluggy.PluginManager, role: str, wanted: str | None, run: Run, dropped: set[str]
) -> tuple[str, Any]:
    """(name, callable) of the one provider of a role; the callable is None for a built-in."""
    if wanted in BUILTIN[role]:
        return wanted, None
    names = _implementers(manager, role)
    if wanted is not None:
        names = [name for name in names if name == wanted]
    else:
        names = [name for name in names if name not in dropped]
    answers = {
        name: answer for name in names if (answer := _ask(manager, role, name, run)) is not None
    }
    if wanted is not None and not answers:
        raise UsageError(f"--use {role}={wanted}: plugin '{wanted}' provides no {role} in this run")
    if len(answers) > 1:
        ways = " or ".join(f"--use {role}={name}" for name in answers)
        raise PluginConflict(
            f"{len(answers)} plugins provide the {role}: {', '.join(answers)}",
            fix=f"choose one: {ways}",
        )
    return next(iter(answers.items()), (BUILTIN[role][0], None))


def _wrapped(manager: pluggy.PluginManager, wrappers: Sequence[str], loss: Loss, run: Run) -> Loss:
    """The loss inside every wrapper, in the order of their names (``tryfirst`` ones outermost)."""

    class Chosen:
        """Stands in for the provider, so that the wrappers run around its loss and no hook is asked twice."""

        @hookimpl
        def defense_loss(self) -> Loss:
            return loss

    if not wrappers:
        return loss
    named = " and ".join(sorted(wrappers))
    others = [plugin for name, plugin in manager.list_name_plugin() if name not in wrappers]
    manager.register(Chosen(), name="the chosen loss")
    with blamed(named, "defense_loss wrapper"):
        result: Loss | None = manager.subset_hook_caller("defense_loss", remove_plugins=others)(
            run=run
        )
    manager.unregister(name="the chosen loss")
    if result is None or not callable(result):
        raise PluginError(
            f"the loss wrapper of {named} returned no loss",
            fix="inner = yield, then return a callable that takes the context",
        )
    return result


def _collected(manager: pluggy.PluginManager, role: str, run: Run) -> list[tuple[str, Any]]:
    answers = ((name, _ask(manager, role, name, run)) for name in _implementers(manager, role))
    return [(name, answer) for name, answer in answers if answer is not None]


def _rows(
    roles: Mapping[str, Sequence[str]],
    loaded: Sequence[Plugin],
    options: Mapping[str, PluginConfig],
    run: Run,
) -> Iterator[PlanRow]:
    """Who provides what, and the selected plugins that provide nothing, with the reason."""
    versions = {plugin.name: plugin.version for plugin in loaded}
    attack = run.attack.model_dump(exclude={"precision"})  # the engine's row has it
    attack |= {"step_size": f"{run.attack.step(run.threat):.6g}", "threat": str(run.threat)}
    shares = {"pgd": attack, "apgd": attack | {"step_size": "its own"}}
    for role, names in roles.items():
        for name in names:
            shown = options[name].model_dump() if name in options else shares.get(name, {})
            yield PlanRow(role, name, versions.get(name, BUILT_IN), shown)
    used = {name for names in roles.values() for name in names}
    for plugin in loaded:
        if plugin.name not in used:
            why = (
                "switched off by its options"
                if options[plugin.name].is_neutral
                else "provides nothing in this run"
            )
            yield PlanRow("unused", plugin.name, plugin.version, {"why": why})
