"""The loss of a run without a loss plugin."""

from __future__ import annotations

import torch.nn.functional as F

from abatis.api.context import Loss, StepContext
from abatis.api.run import Run
from abatis.api.term import Term, Terms


def make_cross_entropy(run: Run) -> Loss:
    """The cross-entropy, for the table of built-in losses."""
    return cross_entropy


def cross_entropy(ctx: StepContext) -> Terms:
    """Cross-entropy at the adversarial images, against soft labels where the batch has them."""
    values = F.cross_entropy(ctx.logits_adv, ctx.batch.target, reduction="none")  # (B,)
    return {"ce": Term(values, reweight=True)}
