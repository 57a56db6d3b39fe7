"""Cross-entropy of clean and adversarial images: c CE(z_i, y_i) + (1 - c) CE(z'_i, y_i)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from abatis import StepContext, Term, Terms

if TYPE_CHECKING:
    from abatis_my_loss import MyLossConfig


class MyLoss:
    """The loss ``my-loss``: the terms ``clean`` and ``adv``."""

    def __init__(self, config: MyLossConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        target, c = ctx.batch.target, self.config.clean
        clean = F.cross_entropy(ctx.logits_clean, target, reduction="none")  # (B,)
        adv = F.cross_entropy(ctx.logits_adv, target, reduction="none")  # (B,)
        return {"clean": Term(clean, weight=c), "adv": Term(adv, weight=1 - c, reweight=True)}
