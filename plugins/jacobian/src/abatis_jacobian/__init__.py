"""Jacobian regularisation: options and hook. The mathematics is in penalty.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, hookimpl


class JacobianConfig(PluginConfig):
    """The options of Jacobian regularisation.

    The defaults are those on the page of the released code: one projection, lambda = 0.01.
    """

    neutral = {"weight": 0}
    soft_labels = True

    weight: float = Field(0.01, ge=0, description="lambda, the weight of the penalty")
    projections: int = Field(
        1,
        ge=0,
        le=1000,
        description="random unit vectors per sample, one backward pass each; 0: exact, with one "
        "backward pass per class",
    )
    at: Literal["adv", "clean"] = Field(
        "adv", description="images at which the Jacobian is taken: adversarial or clean"
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
