"""Adversarial weight perturbation (AWP): options and hook. The mathematics is in trainer.py."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, Run, TrainerHooks, hookimpl


class AwpConfig(PluginConfig):
    """The options of AWP, with the defaults of the authors' adversarial training.

    With TRADES the authors use gamma = 0.005.
    """

    neutral = {"gamma": 0}
    soft_labels = True

    gamma: float = Field(
        0.01,
        ge=0,
        le=1,
        description="norm of each tensor's perturbation, as a fraction of the tensor's norm",
    )
    warmup: int = Field(0, ge=0, description="number of first epochs without perturbation")

    @property
    def idle_epochs(self) -> int:
        return self.warmup


@hookimpl
def defense_config() -> type[PluginConfig]:
    return AwpConfig


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_awp.trainer import WeightPerturbation

    return WeightPerturbation(run.config(AwpConfig), run.net.module)
