"""The weights that are judged: those that are trained, or what one trainer hook makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from abatis.api.context import TrainerHooks
from abatis.config.built_in import TRAINED
from abatis.config.plan_row import BUILT_IN, PlanRow
from abatis.errors import PluginConflict, PluginError, UsageError
from abatis.nets.digest import weights_digest
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.train.builtin.averaging import WeightAveraging
from abatis.train.plan import Plan

FIX = "return a copy of run.net.module with weights of its own, or None"


def choose_judged(plan: Plan, wanted: str | None) -> Plan:
    """The plan, with the one trainer hook whose ``judged`` counts.

    Args:
        plan: All trainer hooks, the built-in ones too.
        wanted: The provider that ``--use weights=NAME`` names.

    Raises:
        PluginConflict: Several hooks provide the weights, and none was chosen.
        UsageError: The chosen one provides none.
    """
    able = [name for name, hooks in plan.trainers if type(hooks).judged is not TrainerHooks.judged]
    if wanted is None and len(able) > 1:
        ways = " or ".join(f"--use weights={name}" for name in able)
        raise PluginConflict(
            f"{len(able)} providers of the weights that are judged: {', '.join(able)}",
            fix=f"choose one: {ways}",
        )
    if wanted is not None and wanted not in (TRAINED, *able):
        raise UsageError(
            f"--use weights={wanted}: '{wanted}' provides no weights in this run",
            fix=f"choose one of {', '.join((TRAINED, *able))}",
        )
    name = wanted or next(iter(able), TRAINED)
    if wanted is None and name in (TRAINED, "averaging"):  # as the row of --ema says
        return replace(plan, judged_by=name)
    row = PlanRow("weights", name, plan.versions.get(name, BUILT_IN), {})
    return replace(plan, judged_by=name, rows=(*plan.rows, row))


class JudgedWeights:
    """Asks the plan's provider after each epoch, and keeps its answer until the next.

    Args:
        plan: Says who provides the weights.
        net: The network that is trained.
    """

    def __init__(self, plan: Plan, net: Net) -> None:
        self.plan = plan
        self.net = net
        self.hooks = dict(plan.trainers).get(plan.judged_by)
        self._answer: nn.Module | None = None
        self._compared = False

    @property
    def module(self) -> nn.Module:
        """The network that holds them."""
        if self._answer is None:
            self.ask()
        return self.net.module if self._answer is None else self._answer

    @property
    def has_own_file(self) -> bool:
        """Are they written beside the weights that are trained?"""
        return self.hooks is not None

    def ask(self) -> None:
        """Ask for the weights as they are now. All processes do so together.

        Raises:
            PluginError: They do not fit the network, or differ between processes.
        """
        if self.hooks is None:
            return
        name = self.plan.judged_by
        with self.plan.watch(name, "judged", self.net):
            self._answer = self.hooks.judged()
        if self._answer is not None and not isinstance(self.hooks, WeightAveraging):
            self._check(name, self._answer)

    def state_dict(self) -> Mapping[str, Any]:
        """What a checkpoint keeps of them; nothing of those that it holds anyway."""
        if self._answer is None or isinstance(self.hooks, WeightAveraging):
            return {}
        return self._answer.state_dict()

    def _check(self, name: str, answer: object) -> None:
        if not isinstance(answer, nn.Module):
            what = f"plugin '{name}': judged() returned {type(answer).__name__}"
            raise PluginError(what, fix=FIX)
        if _list_shapes(answer) != _list_shapes(self.net.module):
            what = f"plugin '{name}': judged() returned a network of another structure"
            raise PluginError(what, fix=FIX)
        if distributed.several() and not self._compared:
            self._compared = True
            if len(set(distributed.collect(weights_digest(answer)))) > 1:
                raise PluginError(
                    f"plugin '{name}': the weights that are judged differ between the processes",
                    fix="running statistics do until an epoch ends: average them over the"
                    " processes by ctx.sum_over_processes, or call run.restatistics",
                )


def _list_shapes(module: nn.Module) -> dict[str, Any]:
    """Names and shapes of everything in a network's state."""
    return {name: getattr(value, "shape", None) for name, value in module.state_dict().items()}
