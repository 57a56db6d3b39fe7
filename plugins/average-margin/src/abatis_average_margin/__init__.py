"""Average margin: options and hook. The mathematics is in penalty.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, hookimpl


class AverageMarginConfig(PluginConfig):
    """The options of the average margin.

    The released runs use mu = 0.1, beta = 1e-3 (counted twice there, see penalty.py) and tau = 5,
    10 or 40, depending on the network.
    """

    neutral = {"weight": 0, "orthogonality": 0}

    weight: float = Field(
        0.1, ge=0, description="mu, the weight of the ramp on the logit margin; 0 is off"
    )
    tau: float = Field(5.0, gt=0, description="the length of the ramp, in logits")
    ramp: Literal["paper", "released"] = Field(
        "paper",
        description="paper: falls from tau to 0 at margins between 0 and tau; released: at margins "
        "between -tau and 0, on misclassified samples only",
    )
    orthogonality: float = Field(
        1e-3, ge=0, description="beta, the weight of the orthogonality penalty; 0 is off"
    )
    layers: Literal["wide", "all"] = Field(
        "wide",
        description="layers with an orthogonality penalty: those with no more outputs than inputs "
        "(wide), or all, as released",
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return AverageMarginConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    from abatis_average_margin.penalty import AverageMarginPenalty

    return AverageMarginPenalty(run.config(AverageMarginConfig))
