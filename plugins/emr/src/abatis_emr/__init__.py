"""Effective margin regularisation (EMR): options and hook. The mathematics is in penalty.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, Share, hookimpl


class EmrConfig(PluginConfig):
    """The options of EMR, with the defaults of the authors' AT-EMR runs on CIFAR-10."""

    neutral = {"weight": 0}
    shares = {"decay_epochs": "decay_at"}
    soft_labels = True

    weight: float = Field(3.0, ge=0, description="lambda, the weight of the penalty")
    temperature: float = Field(
        40.0,
        gt=0,
        description="T of the softmax that weights the classes; 1: the model's own softmax",
    )
    reduction: Literal["sum", "mean"] = Field(
        "sum",
        description="sum: the sum of squares over N^2, as released; mean: the mean over samples, "
        "independent of the batch size",
    )
    decay_epochs: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (60, 90),
        description="epochs, counted from 1, at whose start the weight is multiplied by decay",
    )
    decay_at: tuple[Share, ...] | None = Field(
        None,
        description="shares of the training, such as 0.6,0.9, after which the weight is multiplied "
        "by decay, in place of decay-epochs",
    )
    decay: float = Field(0.1, ge=0, le=1, description="factor of each decay of the weight")

    @property
    def needs_double_backward(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return EmrConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    from abatis_emr.penalty import EffectiveMarginPenalty

    return EffectiveMarginPenalty(run.config(EmrConfig))
