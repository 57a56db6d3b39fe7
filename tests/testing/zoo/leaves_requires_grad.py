"""A weight left frozen."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_leaves_everything_as_found"
WORDS = "requires_grad of 0.weight"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        value = ctx.logits_adv.logsumexp(1)
        next(ctx.net.module.parameters()).requires_grad_(False)
        return {"x": Term(value)}

    return penalty
