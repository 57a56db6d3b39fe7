"""Switching one-vs-the-rest loss (SOVR): options and hook; the mathematics are in loss.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import Loss, PluginConfig, Run, hookimpl


class SovrConfig(PluginConfig):
    """The defaults are starting points of ours, to be tuned for each data set and network."""

    neutral = {"fraction": 0, "beta": 0, "bias_init": False}

    fraction: float = Field(
        0.4,
        ge=0,
        le=1,
        description="M, share of the batch, smallest margins first, on the switched loss",
    )
    weight: float = Field(0.4, ge=0, description="lambda, the weight of the one-vs-the-rest loss")
    beta: float = Field(
        0.0,
        ge=0,
        description="weight of KL(p || p'); above 0 the switched loss is that of the clean images",
    )
    select_on: Literal["adv", "nat"] = Field(
        "adv", description="whose logits give the margins: adversarial or clean images"
    )
    bias_init: bool = Field(
        False, description="start the last bias at -log(K - 1), for many classes K"
    )

    @property
    def needs_clean(self) -> bool:
        return self.beta > 0 or self.select_on == "nat"


@hookimpl
def defense_config() -> type[PluginConfig]:
    return SovrConfig


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_sovr.loss import SwitchedLoss, start_last_bias

    config = run.config(SovrConfig)
    if config.bias_init:
        start_last_bias(run.net.module, run.num_classes)
    return SwitchedLoss(config)
