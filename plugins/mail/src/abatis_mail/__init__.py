"""Margin-aware instance re-weighting (MAIL): options and hook. The mathematics is in loss.py."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

from pydantic import Field

from abatis import Loss, PluginConfig, Run, Share, hookimpl


class MailConfig(PluginConfig):
    """The options of MAIL, with the released slope and bias for the cross-entropy.

    For the KL of TRADES the released values are 2 and 0.
    """

    neutral = {"slope": 0, "normalization": "mean"}
    shares = {"burn_in": "begin_at"}

    slope: float = Field(
        10.0, ge=0, le=1e3, description="gamma, how steeply the weight falls with the margin"
    )
    bias: float = Field(
        -0.5, ge=-2, le=2, description="margin at which the weight is half its maximum"
    )
    margin: Literal["adv", "nat", "dif"] = Field(
        "adv",
        description="adv, nat: the label's probability minus the largest other one, on the "
        "adversarial or clean image; dif: the label's probability, clean minus adversarial",
    )
    normalization: Literal["constant", "mean"] = Field(
        "constant",
        description="constant: weights times 3, as released; mean: weights divided by their mean "
        "over the batch, as in the paper",
    )
    burn_in: int = Field(
        76,
        ge=0,
        description="number of first epochs in which all weights are 1; 76: weighting starts in "
        "the 77th, as released",
    )

    begin_at: Share | None = Field(
        None,
        description="share of the training, such as 0.6, in which all weights are 1, in place of "
        "burn-in",
    )

    @property
    def idle_epochs(self) -> int:
        return self.burn_in if self.begin_at is None else 0

    @property
    def needs_clean(self) -> bool:
        return self.margin != "adv"


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MailConfig


@hookimpl(wrapper=True, tryfirst=True)
def defense_loss(run: Run) -> Generator[None, Loss, Loss]:
    from abatis_mail.loss import MarginWeighted

    inner = yield
    return MarginWeighted(inner, run.config(MailConfig))
