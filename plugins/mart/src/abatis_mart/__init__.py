"""Misclassification-aware adversarial training (MART): options and hook.

The mathematics is in loss.py.
"""

from __future__ import annotations

from pydantic import Field

from abatis import Loss, PluginConfig, Run, hookimpl


class MartConfig(PluginConfig):
    """The option of MART: the default is the released WRN-34-10 script's, ResNet-18's is 5."""

    beta: float = Field(6.0, ge=0, description="weight of the KL term (lambda in the paper)")

    @property
    def needs_clean(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MartConfig


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_mart.loss import MisclassificationAwareLoss

    return MisclassificationAwareLoss(run.config(MartConfig))
