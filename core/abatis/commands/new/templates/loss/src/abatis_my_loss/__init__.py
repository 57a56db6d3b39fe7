"""My loss: options and hooks; the mathematics is in loss.py."""

from __future__ import annotations

from pydantic import Field

from abatis import Loss, PluginConfig, Run, hookimpl

DEFENSE_API = "1.0"


class MyLossConfig(PluginConfig):
    """Options of the loss."""

    soft_labels = True

    clean: float = Field(0.5, ge=0, le=1, description="weight of the clean images")

    @property
    def needs_clean(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MyLossConfig


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_my_loss.loss import MyLoss

    return MyLoss(run.config(MyLossConfig))
