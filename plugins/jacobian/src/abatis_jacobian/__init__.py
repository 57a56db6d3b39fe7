"""Jacobian regularisation: options and hook; the mathematics are in penalty.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, hookimpl


class JacobianConfig(PluginConfig):
    """Defaults are those that the released code's page shows: one projection, lambda = 0.01."""

    neutral = {"weight": 0}
    soft_labels = True

    weight: float = Field(0.01, ge=0, description="lambda, the weight of the penalty")
    projections: int = Field(
        1,
        ge=0,
        le=1000,
        description="random unit vectors a sample, one backward pass each; 0 takes all classes and "
        "is exact",
    )
    at: Literal["adv", "clean"] = Field(
        "adv", description="the images where it is taken: adversarial or clean"
    )

    @property
    def needs_double_backward(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return JacobianConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    from abatis_jacobian.penalty import JacobianPenalty

    return JacobianPenalty(run.config(JacobianConfig), run.random)
