"""Max-margin adversarial training (MMA): options and hooks; the mathematics are in margins.py."""

from __future__ import annotations

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, TrainerHooks, hookimpl

DEFENSE_API = "1.0"


class MmaConfig(PluginConfig):
    """The defaults are those of the released CIFAR-10 run in Linf with the largest margin,
    MMA-32.
    """

    max_eps: float = Field(
        0.1255,
        gt=0,
        le=100,
        description="d_max, the margin beyond which an image is left alone, in pixels",
    )
    min_eps: float = Field(
        0.005, ge=0, le=100, description="least radius an image is attacked with, in pixels"
    )
    clean_weight: float = Field(
        1 / 3, ge=0, le=1, description="weight of the clean cross-entropy; the rest is for margins"
    )
    bisections: int = Field(
        10, ge=1, le=100, description="halvings of the interval that holds the boundary"
    )

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
