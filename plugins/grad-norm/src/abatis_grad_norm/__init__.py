"""The gradient norm on natural images: options and hooks. The mathematics is in loss.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from abatis import (
    Attacked,
    Attacker,
    Batch,
    Forward,
    Loss,
    PluginConfig,
    Run,
    Share,
    UsageError,
    hookimpl,
)

DEFENSE_API = "1.1"
Positive = Annotated[float, Field(gt=0, le=100)]


class GradNormConfig(PluginConfig):
    """The options of the gradient norm, with the defaults of the released configuration."""

    shares = {"ramp": "full_at"}
    soft_labels = True

    ce_weight: float = Field(0.8, ge=0, description="weight of the cross-entropy")
    grad_weight: float = Field(1.2, ge=0, description="weight of the gradient norm, at last")
    ramp_start: float = Field(
        0.0, ge=0, description="share of that weight at the start of the training"
    )
    ramp: float = Field(0.2, ge=0, description="what the share grows by in an epoch")
    full_at: Share | None = Field(
        None,
        description="part of the training, such as 0.1, in which the share grows to the largest, "
        "in place of ramp",
    )
    ramp_end: float = Field(1.0, ge=0, description="the largest share")
    std: tuple[Positive, ...] = Field(
        (0.225,),
        description="standard deviation of each channel by which the network normalises, or one"
        " for all; with 0.225 the norm is eps times that of the gradient in pixels",
    )
    channels: tuple[Positive, ...] = Field(
        (1.0,), description="weight of the gradient of each channel, or one for all"
    )
    forward: Literal["eval", "train"] = Field(
        "train",
        description="mode of the cross-entropy's forward pass; the released code trains in eval"
        " mode, which leaves running statistics as they are and needs trained ones",
    )

    @property
    def dated_epochs(self) -> Mapping[str, tuple[int, ...]]:
        if self.full_at is not None or not self.ramp:
            return {}
        growing = max(0.0, self.ramp_end - self.ramp_start) / self.ramp  # epochs
        return {"ramp": (math.ceil(round(growing, 9)) + 1,)}

    @property
    def needs_double_backward(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return GradNormConfig


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_grad_norm.loss import GradNormLoss

    if len(run.threats) > 1:
        raise UsageError(
            f"grad-norm makes no attack and knows one eps, and this run trains in"
            f" {' and '.join(map(str, run.threats))}",
            fix="leave out --also-train (--also-threat judges others), or --use loss=cross-entropy",
        )
    return GradNormLoss(run)


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    def attack_nothing(forward: Forward, batch: Batch) -> Attacked:
        return Attacked(batch.x)  # trained on natural images

    return attack_nothing
