"""Weights clipped in the loss."""

from __future__ import annotations

import torch

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_leaves_everything_as_found"
WORDS = "the values of 0.weight"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        with torch.no_grad():
            next(ctx.net.module.parameters()).clamp_(-0.1, 0.1)
        return {"x": Term(ctx.logits_adv.logsumexp(1))}

    return penalty
