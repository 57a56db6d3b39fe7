"""Helper-based adversarial training (HAT): options and hook. The mathematics is in penalty.py."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from abatis import PluginConfig, Regularizer, Run, hookimpl

DEFENSE_API = "1.0"


class HatConfig(PluginConfig):
    """The options of HAT, with the released defaults for 50 epochs without additional data."""

    neutral = {"weight": 0}
    soft_labels = True  # its labels are those of the standard network

    weight: float = Field(0.5, ge=0, description="gamma, the weight of the helper term")
    scale: float = Field(
        2.0,
        ge=0,
        le=100,
        description="h, position of the helper image along the perturbation; 1: x' itself",
    )
    standard: Path | None = Field(
        None,
        description="network trained without an attack: its run folder, or weights "
        "(.safetensors) for the run's backbone",
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return HatConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    from abatis_hat.penalty import HelperPenalty, standard_network

    config = run.config(HatConfig)
    return HelperPenalty(config, standard_network(run, config.standard))
