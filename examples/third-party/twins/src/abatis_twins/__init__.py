"""TWINS: options and hooks. The norm is in norm.py, the loss in loss.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, hookimpl

if TYPE_CHECKING:
    from torch import nn

DEFENSE_API = "1.1"


class TwinsConfig(PluginConfig):
    """The options of TWINS, with the values of the released CIFAR scripts."""

    form: Literal["at", "trades"] = Field("at", description="adversarial training, or TRADES")
    frozen: float = Field(1.0, ge=0, description="lambda, weight of the half with frozen norms")
    beta: float = Field(6.0, ge=0, description="weight of the KL in trades")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return TwinsConfig


@hookimpl
def defense_network(run: Run, module: nn.Module) -> nn.Module:
    from abatis_twins.norm import TwoNorms

    return TwoNorms(module)


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_twins.loss import TwinsLoss

    return TwinsLoss(run)


@hookimpl
def defense_attacker(run: Run) -> Attacker | None:
    from abatis_twins.loss import KLAttacker

    return KLAttacker(run) if run.config(TwinsConfig).form == "trades" else None
