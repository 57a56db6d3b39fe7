"""The squared L2 norm of the logits of the adversarial images, sum_k z'_ik^2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatis import StepContext, Term, Terms

if TYPE_CHECKING:
    from abatis_my_regularizer import MyRegularizerConfig


class MyRegularizer:
    """The regularizer ``my-regularizer``: the term ``norm_sq``."""

    def __init__(self, config: MyRegularizerConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        norm_sq = ctx.logits_adv.square().sum(1)  # (B,)
        return {"norm_sq": Term(norm_sq, weight=self.config.weight)}
