"""For tests of trainer hooks: averaged weights beside them, and the state in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from abatis.config.plan_row import BUILT_IN, PlanRow
from abatis.errors import UsageError
from abatis.train.builtin.averaging import WeightAveraging
from abatis.train.checkpoint import CHECKPOINTS, load_checkpoint
from abatis.train.plan import Plan


def add_averaging(
    plan: Plan, module: nn.Module, decay: float, twin: nn.Module | None = None
) -> tuple[Plan, nn.Module]:
    """Average the weights of a module after every step of a plan, as ``--ema`` does.

    Args:
        plan: what :func:`plan_of` returned.
        module: the network of the plan.
        decay: decay of the average, in [0, 1]; 0 copies the weights.
        twin: where to keep the average if the module cannot be copied.

    Returns:
        The plan with the average, and the network that holds it.
    """
    averaging = WeightAveraging(module, decay, twin)
    row = PlanRow("trainer", "averaging", BUILT_IN, {"decay": decay})
    return plan.with_trainer("averaging", averaging, row), averaging.averaged


def load_plugin_state(folder: Path, plugin: str) -> Mapping[str, Any]:
    """Read what the newest checkpoint of a run keeps of a plugin's ``TrainerHooks.state_dict``.

    Args:
        folder: the run folder, as in ``abatis.run(...).folder``.
        plugin: the plugin's name.

    Raises:
        CheckpointError: there are checkpoints, but none is valid.
        UsageError: there is no checkpoint, or it keeps nothing of the plugin.
    """
    loaded = load_checkpoint(folder / CHECKPOINTS)
    states: Mapping[str, Mapping[str, Any]] = {} if loaded is None else loaded.state["trainers"]
    if plugin not in states:
        raise UsageError(f"no checkpoint with a state of plugin '{plugin}'", where=str(folder))
    return states[plugin]
