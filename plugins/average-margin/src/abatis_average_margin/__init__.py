"""Average margin: options and hook; the mathematics are in penalty.py."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, hookimpl


class AverageMarginConfig(PluginConfig):
    """The released runs have mu = 0.1, beta = 1e-3 (counted twice there: see penalty.py) and tau =
    5, 10 or 40 by network.
    """

    neutral = {"weight": 0, "orthogonality": 0}

    weight: float = Field(
        0.1, ge=0, description="mu, the weight of the ramp on the logit margin; 0 leaves it out"
    )
    tau: float = Field(
        5.0, gt=0, description="the logit margin up to which the ramp rewards more margin"
    )
    orthogonality: float = Field(
        1e-3, ge=0, description="beta, the weight of the orthogonality penalty; 0 leaves it out"
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return AverageMarginConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    from abatis_average_margin.penalty import AverageMarginPenalty

    return AverageMarginPenalty(run.config(AverageMarginConfig))
