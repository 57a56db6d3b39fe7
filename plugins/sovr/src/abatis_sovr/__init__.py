"""Switching one-vs-the-rest loss (SOVR): options and hook. The mathematics is in loss.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import Loss, PluginConfig, Run, hookimpl


class SovrConfig(PluginConfig):
    """The options of SOVR. The defaults are ours; tune them for each data set and network."""

    neutral = {"fraction": 0, "beta": 0, "bias_init": False}

    fraction: float = Field(
        0.4,
        ge=0,
        le=1,
        description="M, fraction of the batch that uses the one-vs-the-rest loss, smallest margins "
        "first",
    )
    weight: float = Field(0.4, ge=0, description="lambda, the weight of the one-vs-the-rest loss")
    beta: float = Field(
        0.0,
        ge=0,
        description="weight of KL(p || p'); if above 0, the other terms use the clean images",
    )
    select_on: Literal["adv", "nat"] = Field(
        "adv", description="images whose logits give the margins: adversarial or clean (nat)"
    )
    bias_init: bool = Field(
        False, description="start the last layer's bias at -log(K - 1), for many classes K"
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
