"""A term whose gradient has the wrong sign."""

from __future__ import annotations

import torch.nn.functional as F

from abatis import Loss, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_twenty_steps_on_digits_lower_the_total"
WORDS = "the total went from"


@hookimpl
def defense_loss(run: Run) -> Loss:
    def loss(ctx: StepContext) -> Terms:
        value = F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none")  # (B,)
        return {"ce": Term(2 * value.detach() - value)}

    return loss
