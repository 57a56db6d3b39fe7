"""Adversarial training in several norms: options and hooks. The rest is in attack.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import Attacker, PluginConfig, Run, TrainerHooks, hookimpl

DEFENSE_API = "1.1"


class MultiNormConfig(PluginConfig):
    """The option of training in several norms; the default is the released E-AT."""

    soft_labels = True
    several_threats = True

    choice: Literal["sample", "max"] = Field(
        "sample",
        description="threat of an image: one for the batch, the less often survived the likelier"
        " (sample, E-AT), or that of the larger loss (max)",
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MultiNormConfig


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_multi_norm.attack import LargestLoss, OneThreat

    if run.config(MultiNormConfig).choice == "max":
        return LargestLoss(run)
    return OneThreat(run)


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks | None:
    from abatis_multi_norm.attack import Survivals

    return run.shared(Survivals) if run.config(MultiNormConfig).choice == "sample" else None
