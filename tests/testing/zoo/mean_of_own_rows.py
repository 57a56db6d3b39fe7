"""Weights normalised over the samples at hand, of which each process has others."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_processes_and_micro_batches_make_the_update_of_one"
WORDS = "ctx.gather"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        value = ctx.logits_adv.logsumexp(1)
        weight = value.detach().square()
        return {"x": Term(value * weight / weight.mean())}

    return penalty
