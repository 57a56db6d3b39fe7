"""Robust weight perturbation: options and hook. The rest is in trainer.py."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, Run, TrainerHooks, hookimpl

DEFENSE_API = "1.1"


class RwpConfig(PluginConfig):
    """The options of RWP, with the released defaults for CIFAR-10."""

    neutral = {"gamma": 0}
    soft_labels = True

    gamma: float = Field(
        0.01, ge=0, le=1, description="length of the perturbation, of the weights'"
    )
    below: float = Field(
        1.7, ge=0, description="only samples with a smaller loss perturb; 4 for CIFAR-100"
    )
    steps: int = Field(10, ge=1, le=1000, description="ascent steps of the weights")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return RwpConfig


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_rwp.trainer import RobustPerturbation

    return RobustPerturbation(run)
