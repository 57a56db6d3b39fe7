"""TRADES: options and hooks. The mathematics is in loss.py and attack.py."""

from __future__ import annotations

from pydantic import Field

from abatis import Attacker, Loss, PluginConfig, Run, hookimpl


class TradesConfig(PluginConfig):
    """The options of TRADES, with the defaults of the released CIFAR-10 script."""

    soft_labels = True

    beta: float = Field(6.0, ge=0, description="weight of the KL term (1/lambda in the paper)")
    smoothing: float = Field(
        0.0, ge=0, lt=1, description="label smoothing of the clean cross-entropy alone"
    )

    @property
    def needs_clean(self) -> bool:
        return True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return TradesConfig


@hookimpl
def defense_loss(run: Run) -> Loss:
    from abatis_trades.loss import TradesLoss

    return TradesLoss(run.config(TradesConfig))


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    from abatis_trades.attack import KLAttacker

    return KLAttacker(run)
