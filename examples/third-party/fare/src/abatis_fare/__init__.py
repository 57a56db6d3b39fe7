"""FARE and TeCoA: options and hooks. The mathematics is in embedding.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, hookimpl

DEFENSE_API = "1.1"


class FareConfig(PluginConfig):
    """The options of FARE and TeCoA, with the released defaults."""

    soft_labels = True

    form: Literal["fare", "tecoa"] = Field(
        "fare",
        description="distance to the embeddings of the original network (fare), or cross-entropy"
        " of the labels (tecoa)",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step in an attack step")

    @property
    def needs_features(self) -> bool:
        return self.form == "fare"


@hookimpl
def defense_config() -> type[PluginConfig]:
    return FareConfig


@hookimpl
def defense_loss(run: Run) -> Loss | None:
    from abatis_fare.embedding import FareLoss

    return FareLoss(run) if run.config(FareConfig).form == "fare" else None


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_fare.embedding import MomentumAttacker

    return MomentumAttacker(run)
