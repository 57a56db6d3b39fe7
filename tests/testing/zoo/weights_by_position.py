"""Samples weighted by their place in the batch."""

from __future__ import annotations

import torch

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_the_order_of_the_batch_does_not_matter"
WORDS = "depends on the order of the samples"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        return {"x": Term(ctx.logits_adv.logsumexp(1) * torch.arange(len(ctx.batch)))}

    return penalty
