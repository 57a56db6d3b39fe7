"""Max-margin adversarial training (MMA): options and hooks. The mathematics is in margins.py."""

from __future__ import annotations

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, TrainerHooks, hookimpl

DEFENSE_API = "1.0"


class MmaConfig(PluginConfig):
    """The options of MMA, with the defaults of the released CIFAR-10 run MMA-32 in Linf."""

    max_eps: float = Field(
        0.1255,
        gt=0,
        le=100,
        description="d_max, the margin above which an image is not attacked, in pixel units",
    )
    min_eps: float = Field(
        0.005, ge=0, le=100, description="smallest radius of the attack, in pixel units"
    )
    clean_weight: float = Field(
        1 / 3, ge=0, le=1, description="weight of the clean cross-entropy; margins have the rest"
    )
    bisections: int = Field(10, ge=1, le=100, description="bisection steps to find the boundary")

    @property
    def needs_clean(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MmaConfig


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_mma.margins import MarginAttacker

    return MarginAttacker(run)


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_mma.margins import MarginLoss

    return MarginLoss(run)


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    from abatis_mma.margins import Margins

    return run.shared(Margins)
