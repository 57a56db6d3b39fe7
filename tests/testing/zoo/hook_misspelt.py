"""A hook by another name."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_is_found_and_loads"
WORDS = "did you mean 'defense_regularizer'"


@hookimpl
def defense_regulariser(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        return {"x": Term(ctx.logits_adv.logsumexp(1))}

    return penalty
