"""Adversarial weight perturbation (AWP): options and hook. The mathematics is in trainer.py."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, Run, Share, TrainerHooks, hookimpl


class AwpConfig(PluginConfig):
    """The options of AWP, with the defaults of the authors' adversarial training.

    With TRADES the authors use gamma = 0.005.
    """

    neutral = {"gamma": 0}
    shares = {"warmup": "begin_at"}
    soft_labels = True

    gamma: float = Field(
        0.01,
        ge=0,
        le=1,
        description="norm of each tensor's perturbation, as a fraction of the tensor's norm",
    )
    warmup: int = Field(0, ge=0, description="number of first epochs without perturbation")
    begin_at: Share | None = Field(
        None,
        description="share of the training, such as 0.1, without perturbation, in place of warmup",
    )

    @property
    def idle_epochs(self) -> int:
        return self.warmup if self.begin_at is None else 0


@hookimpl
def defense_config() -> type[PluginConfig]:
    return AwpConfig


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_awp.trainer import WeightPerturbation

    return WeightPerturbation(run.config(AwpConfig), run.net.module)
