"""SCORE: options and hooks. The mathematics is in loss.py and attack.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, hookimpl

DEFENSE_API = "1.1"


class ScoreConfig(PluginConfig):
    """The options of SCORE, with the defaults of the released commands."""

    soft_labels = True

    beta: float = Field(
        4.0, ge=0, description="weight of the distance between clean and adversarial prediction"
    )
    clip: float = Field(
        0.0, ge=0, le=2, description="that distance counts above this value only, in the loss"
    )
    smoothing: float = Field(
        0.0, ge=0, lt=1, description="probability that the label gives to the other classes"
    )
    distance: Literal["lse", "js", "js-sqrt", "l1-squared", "kl", "kl-sqrt", "l1", "l2"] = Field(
        "lse",
        description="distance between predictions: the squared error (lse), Jensen-Shannon, the"
        " squared L1 norm, KL to the first, a square root of these, or a norm",
    )

    @property
    def needs_clean(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return ScoreConfig


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_score.loss import ScoreLoss

    return ScoreLoss(run.config(ScoreConfig))


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_score.attack import DistanceAttacker

    return DistanceAttacker(run)
