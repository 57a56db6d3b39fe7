"""What a run is made of: every hook is asked once, what they return is put in order.

The plan is printed before the run; ``--dry-run`` stops there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pluggy
from torch import Tensor

from abatis.api.batch import Batch
from abatis.api.context import (
    AdaptiveAttack,
    Attacker,
    Loss,
    Network,
    Regularizer,
    StepContext,
    TrainerHooks,
)
from abatis.api.options import PluginConfig
from abatis.api.run import Run
from abatis.api.term import Term, Terms
from abatis.config.built_in import JUDGED, PROVIDERS, TRAINED, load_built_in
from abatis.config.discovery import Plugin, normalise_name
from abatis.config.hook_checks import make_manager
from abatis.config.plan_row import BUILT_IN, PlanRow
from abatis.errors import PluginConflict, UsageError, did_you_mean
from abatis.system.plugin_errors import blame_plugin
from abatis.train.builtin.averaging import WeightAveraging
from abatis.train.hook_answers import (
    ask_all,
    ask_hook,
    list_implementers,
    list_loss_wrappers,
    wrap_loss,
)
from abatis.train.side_effect_checks import SideEffectChecks
from abatis.train.statistics_forwards import (
    check_loss_forwards,
    list_used_forwards,
    make_loss_forwards,
)
from abatis.train.term_checks import check_attached, check_terms
from abatis.train.trace import Say, trace_hooks


@dataclass(frozen=True)
class Plan:
    """One attacker, one loss (with its wrappers), any number of regularizers and trainer hooks.

    Attributes:
        attacker: Makes the adversarial images of a step.
        loss: Gives the terms of the base loss.
        regularizers: Names of plugins, and what adds their terms.
        trainers: Names, and what acts around the update, in the order of the calls.
        rows: The plan as it is printed.
        attacker_name: The plugin, or the built-in attack.
        loss_name: The plugin, or the built-in loss.
        clean_first: Is the forward pass on the clean images made before the adversarial one?
        needs_double_backward: Does a plugin differentiate a gradient?
        features_for: Plugins that read the network's features, which every forward pass then keeps.
        hard_labels: Plugins that are defined for one label per sample only.
        adaptive: Attacks that plugins bring against themselves, by plugin; run by the evaluation.
        run: What the hooks were given; the engine moves its clock.
        judged_by: The trainer hook whose weights are judged, or ``trained``.
        side_effects: Checks the first call of every plugin.
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
    run: Run
    judged_by: str = TRAINED
    features_for: tuple[str, ...] = ()
    side_effects: SideEffectChecks = field(default_factory=SideEffectChecks)

    @property
    def versions(self) -> dict[str, str]:
        """The version of each plugin of the run, by its name."""
        return {row.provider: row.version for row in self.rows if row.version != BUILT_IN}

    @property
    def averaging(self) -> WeightAveraging | None:
        """The trainer hook that averages the weights, if averaging is on."""
        found = (hooks for _, hooks in self.trainers if isinstance(hooks, WeightAveraging))
        return next(found, None)

    def check_labels(self, soft: bool) -> None:
        """Raise PluginConflict where labels are soft and a plugin is not defined for them."""
        if soft and self.hard_labels:
            names = ", ".join(self.hard_labels)
            raise PluginConflict(
                f"labels are mixed or smoothed, but {names} is defined for one label per sample",
                fix="remove what mixes or smooths labels (--mix.*, a plugin), or use other plugins",
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
        make_loss_forwards(ctx)
        terms = dict(self._ask_terms(self.loss_name, "loss", self.loss, ctx))
        terms |= self.penalties(ctx)
        check_loss_forwards(ctx.forwards, list_used_forwards(ctx))
        return terms

    def penalties(self, ctx: StepContext) -> dict[str, Term]:
        """The regularizers' terms alone."""
        found: dict[str, Term] = {}
        for name, regularizer in self.regularizers:
            terms = self._ask_terms(name, "regularizer", regularizer, ctx)
            found.update({f"{name}/{key}": term for key, term in terms.items()})
        return found

    def _ask_terms(
        self, name: str, role: str, function: Loss | Regularizer, ctx: StepContext
    ) -> Terms:
        images = {f"images '{key}'": further for key, further in ctx.images.items()}
        images |= {"adversarial_images": ctx.x_adv}
        with self.watch(name, role, ctx.net, ctx.batch, **images) as first:
            terms = function(ctx)
            check_terms(terms, ctx, name)
            if first and any(weight.requires_grad for weight in ctx.net.module.parameters()):
                check_attached(terms, name)
        return terms

    @contextmanager
    def watch(
        self, plugin: str, role: str, net: Network, batch: Batch | None = None, **tensors: Tensor
    ) -> Iterator[bool]:
        """Around one call into a plugin: its exceptions name it, its first call is checked.

        Args:
            plugin: The plugin's name.
            role: What it is called for, such as "loss".
            net: The network, which the call must leave as it was.
            batch: The batch, the same.
            tensors: More that the call may not write on, by name.

        Yields:
            Is this the first call, which is checked for side effects?
        """
        if batch is not None:
            tensors |= {"images": batch.x, "labels": batch.y, "index": batch.index}
        with (
            blame_plugin(plugin, role, self.versions),
            self.side_effects.watch(plugin, role, net, **tensors) as first,
        ):
            yield first


def make_plan(
    loaded: Sequence[Plugin],
    options: Mapping[str, PluginConfig],
    use: Mapping[str, str],
    run: Run,
    say: Say | None = None,
) -> Plan:
    """Ask every hook once and put the answers in order.

    Args:
        loaded: The selected plugins.
        options: Their options, by name.
        use: ``--use``: who provides a role, by role.
        run: What the hooks may know.
        say: Receives the lines of ``--trace``.

    Raises:
        PluginConflict: Several plugins provide the loss or the attacker.
        UsageError: ``use`` names no provider.
        PluginError: A hook failed, or returned what cannot be used.
    """
    manager = _register_active(loaded, options, say)
    use = read_use(use, loaded)
    loss_name, loss = _choose_provider(manager, "loss", use.get("loss"), run, set())
    # a plugin whose loss is not used leaves the attack to the others as well
    losses = {*list_implementers(manager, "loss")} if "loss" in use else set()
    attacker_name, attacker = _choose_provider(
        manager, "attacker", use.get("attacker"), run, losses - {loss_name}
    )
    _check_threats(run, attacker_name, options)
    wrappers = list_loss_wrappers(manager)
    loss = wrap_loss(manager, wrappers, loss, run)
    regularizers = ask_all(manager, "regularizer", run)
    trainers = ask_all(manager, "trainer", run)
    adaptive = ask_all(manager, "adaptive_attack", run)
    roles = {
        "attacker": [attacker_name],
        "loss": [loss_name],
        "loss wrapper": wrappers,
        "regularizer": [name for name, _ in regularizers],
        "trainer": [name for name, _ in trainers],
    }
    acting = {name for names in roles.values() for name in names}
    configs = {name: config for name, config in options.items() if name in acting}
    roles = {"network": run.networks, **roles, "adaptive attack": [name for name, _ in adaptive]}
    return Plan(
        attacker=attacker,
        loss=loss,
        regularizers=tuple(regularizers),
        trainers=tuple(trainers),
        rows=tuple(_make_rows(roles, loaded, options, attacker)),
        attacker_name=attacker_name,
        loss_name=loss_name,
        clean_first=any(config.needs_clean for config in configs.values()),
        needs_double_backward=any(config.needs_double_backward for config in configs.values()),
        hard_labels=tuple(name for name, config in configs.items() if not config.soft_labels),
        adaptive=dict(adaptive),
        run=run,
        features_for=tuple(name for name, config in configs.items() if config.needs_features),
    )


def _check_threats(run: Run, attacker: str, options: Mapping[str, PluginConfig]) -> None:
    """Raise UsageError where a run has several threats, and its attacker knows one."""
    if run.further and not (attacker in options and options[attacker].several_threats):
        raise UsageError(
            f"threats {', '.join(map(str, run.threats))}: the attack of '{attacker}' knows one",
            fix="use a plugin that attacks in several, like multi-norm; or judge the others alone:"
            f" --also-threat {run.further[0]}",
        )


def _register_active(
    loaded: Sequence[Plugin], options: Mapping[str, PluginConfig], say: Say | None
) -> pluggy.PluginManager:
    """A manager with the plugins that their options do not switch off."""
    active = [plugin for plugin in loaded if not options[plugin.name].is_neutral]
    manager = make_manager((plugin.name, plugin.module) for plugin in active)
    if say is not None:
        trace_hooks(manager, loaded, say)
    return manager


def read_use(use: Mapping[str, str], loaded: Sequence[Plugin]) -> dict[str, str]:
    """Roles and the providers that ``--use`` names.

    Raises:
        UsageError: A provider is neither a selected plugin nor built in.
    """
    for role, provider in use.items():
        known = {*PROVIDERS.get(role, JUDGED), *(plugin.name for plugin in loaded)}
        if normalise_name(provider) not in known:
            raise UsageError(
                f"--use {role}={provider}: no such provider, {did_you_mean(provider, known)}",
                fix="name a provider of this run, or leave --use out",
            )
    return {role: normalise_name(provider) for role, provider in use.items()}


def _choose_provider(
    manager: pluggy.PluginManager, role: str, wanted: str | None, run: Run, dropped: set[str]
) -> tuple[str, Any]:
    """Name and callable of the one provider of a role; plugins in ``dropped`` are not asked."""
    built_in = PROVIDERS[role]
    if wanted is not None and wanted in built_in:
        return wanted, load_built_in(built_in[wanted])(run)
    names = list_implementers(manager, role)
    if wanted is None:
        names = [name for name in names if name not in dropped]
    else:
        names = [name for name in names if name == wanted]
    answers = {name: ask_hook(manager, role, name, run) for name in names}
    answers = {name: answer for name, answer in answers.items() if answer is not None}
    if wanted is not None and not answers:
        raise UsageError(f"--use {role}={wanted}: plugin '{wanted}' provides no {role} in this run")
    if len(answers) > 1:
        ways = " or ".join(f"--use {role}={name}" for name in answers)
        raise PluginConflict(
            f"{len(answers)} plugins provide the {role}: {', '.join(answers)}",
            fix=f"choose one: {ways}",
        )
    if not answers:
        default = next(iter(built_in))
        return default, load_built_in(built_in[default])(run)
    return next(iter(answers.items()))


def _make_rows(
    roles: Mapping[str, Sequence[str]],
    loaded: Sequence[Plugin],
    options: Mapping[str, PluginConfig],
    attacker: Attacker,
) -> Iterator[PlanRow]:
    """Who provides what, and the selected plugins that provide nothing, with the reason."""
    versions = {plugin.name: plugin.version for plugin in loaded}
    for role, names in roles.items():
        for name in names:
            of_built_in = getattr(attacker, "options", {}) if role == "attacker" else {}
            shown = options[name].model_dump() if name in options else of_built_in
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
