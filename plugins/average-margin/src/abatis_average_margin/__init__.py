"""Average margin: options and hook. The mathematics is in penalty.py."""

from __future__ import annotations

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
    tau: float = Field(5.0, gt=0, description="the logit margin above which the ramp is 0")
    orthogonality: float = Field(
        1e-3, ge=0, description="beta, the weight of the orthogonality penalty; 0 is off"
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return AverageMarginConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    from abatis_average_margin.penalty import AverageMarginPenalty

    return AverageMarginPenalty(run.config(AverageMarginConfig))
