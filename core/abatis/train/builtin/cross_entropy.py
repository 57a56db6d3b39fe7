"""The loss of a run without a loss plugin."""

from __future__ import annotations

import torch.nn.functional as F

from abatis.api.context import StepContext
from abatis.api.term import Term, Terms


def cross_entropy(ctx: StepContext) -> Terms:
    """Cross-entropy at the adversarial images, against the soft labels where the batch carries them."""
    return {
        "ce": Term(
            F.cross_entropy(ctx.logits_adv, ctx.batch.target, reduction="none"), reweight=True
        )
    }  # (B,)
