"""Hypersphere embedding: options and hooks. The mathematics is in head.py and loss.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, TrainerHooks, hookimpl

if TYPE_CHECKING:
    from torch import nn

DEFENSE_API = "1.1"


class HeConfig(PluginConfig):
    """The options of hypersphere embedding, with the defaults of the released PGD-HE command."""

    form: Literal["at", "trades", "alp"] = Field(
        "at", description="what it is combined with: adversarial training, TRADES or ALP"
    )
    s: float = Field(10.0, gt=0, le=1000, description="factor of the cosines in the logits")
    m: float = Field(0.2, ge=0, le=2, description="margin that the loss takes off the true cosine")
    beta: float = Field(
        6.0, ge=0, description="weight of the KL in trades, or of the squared difference in alp"
    )

    @property
    def needs_clean(self) -> bool:
        return self.form != "at"


@hookimpl
def defense_config() -> type[PluginConfig]:
    return HeConfig


@hookimpl
def defense_network(run: Run, module: nn.Module) -> nn.Module:
    from abatis_he.head import replace_head

    return replace_head(module, run.num_classes, run.config(HeConfig).s)


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_he.loss import HeLoss

    return HeLoss(run.config(HeConfig))


@hookimpl
def defense_attacker(run: Run) -> Attacker | None:
    from abatis_he.loss import KLAttacker

    return KLAttacker(run) if run.config(HeConfig).form == "trades" else None


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_he.head import UnitRows

    return UnitRows(run)
