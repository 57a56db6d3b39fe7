"""A gather that only some processes make."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_processes_and_micro_batches_make_the_update_of_one"
WORDS = "a run would hang"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        mean = 1.0
        if bool((ctx.batch.y == 0).any()):
            mean = ctx.gather(ctx.logits_adv.logsumexp(1)).mean()
        return {"x": Term(ctx.logits_adv.logsumexp(1) * mean)}

    return penalty
