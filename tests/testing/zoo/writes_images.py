"""Images changed in place."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_leaves_everything_as_found"
WORDS = "the images"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        ctx.batch.x.clamp_(0.1, 0.9)
        return {"x": Term(ctx.logits_adv.logsumexp(1))}

    return penalty
