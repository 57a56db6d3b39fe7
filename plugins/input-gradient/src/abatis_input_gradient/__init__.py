"""Input-gradient regularisation: options and hook. The mathematics is in penalty.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, hookimpl


class InputGradientConfig(PluginConfig):
    """The options of input-gradient regularisation.

    The default weight is the smallest of the released grid, 100 to 100,000 for batches of 256.
    """

    neutral = {"weight": 0}
    soft_labels = True

    weight: float = Field(100.0, ge=0, description="lambda, the weight of the penalty")
    at: Literal["adv", "clean"] = Field(
        "adv", description="images at which the gradient is taken: adversarial or clean"
    )
    reduction: Literal["sum", "mean"] = Field(
        "sum",
        description="sum: the sum of squares over N^2, as released; mean: the mean over samples, "
        "independent of the batch size",
    )

    @property
    def needs_double_backward(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return InputGradientConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    from abatis_input_gradient.penalty import InputGradientPenalty

    return InputGradientPenalty(run.config(InputGradientConfig))
