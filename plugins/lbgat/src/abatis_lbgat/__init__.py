"""LBGAT: options and hooks. The mathematics is in loss.py."""

from __future__ import annotations

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, hookimpl

DEFENSE_API = "1.1"


class LbgatConfig(PluginConfig):
    """The options of LBGAT, with the defaults of the released command with beta 6."""

    soft_labels = True

    beta: float = Field(6.0, ge=0, description="weight of the KL between the student's outputs")
    teacher: str = Field(
        "resnet18", description="backbone of the clean teacher, which is trained along"
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return LbgatConfig


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_lbgat.loss import LbgatLoss

    config = run.config(LbgatConfig)
    teacher = run.auxiliary("lbgat", config.teacher, train=True)
    return LbgatLoss(teacher, config.beta)


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_lbgat.loss import KLAttacker

    return KLAttacker(run)
