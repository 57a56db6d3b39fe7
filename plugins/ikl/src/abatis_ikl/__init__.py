"""IKL and GKL: options and hooks. The mathematics is in loss.py, class_means.py and attack.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, TrainerHooks, hookimpl

DEFENSE_API = "1.1"


class IklConfig(PluginConfig):
    """The options of IKL, with the defaults of the released CIFAR-10 command."""

    alpha: float = Field(
        4.0, ge=0, description="weight of the cross-entropy from clean to adversarial prediction"
    )
    beta: float = Field(20.0, ge=0, description="weight of the weighted squared error")
    gamma: float = Field(
        1.0, gt=0, le=1, description="power of the class means; 1 is IKL, less is GKL"
    )
    temperature: float = Field(
        4.0,
        gt=0,
        le=100,
        description="temperature of the predictions in the class means, or in weights of samples",
    )
    weights: Literal["classes", "samples"] = Field(
        "classes",
        description="weights of the squared error: the mean prediction of the label's class, or"
        " the sample's own prediction, as in the released distillation without class means",
    )
    ce_temperature: float = Field(
        1.0, gt=0, le=100, description="temperature of the predictions in the cross-entropy"
    )
    grow: bool = Field(
        True, description="let the attack's radius grow linearly over the epochs, as released"
    )
    step: float = Field(
        0.5, gt=0, le=1, description="step size of the attack, as a share of its radius"
    )
    attack_beta: float = Field(
        0.0, ge=0, description="weight of the weighted squared error in the attack"
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return IklConfig


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_ikl.loss import IklLoss

    return IklLoss(run)


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_ikl.attack import GrowingAttacker

    return GrowingAttacker(run)


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_ikl.class_means import ClassMeans

    return run.shared(ClassMeans)
