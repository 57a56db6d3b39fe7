"""A backward pass of its own, whose gradients stay behind."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_leaves_everything_as_found"
WORDS = "the gradient of 0.weight"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        ctx.net(ctx.batch.x).sum().backward()
        return {"x": Term(ctx.logits_adv.logsumexp(1))}

    return penalty
