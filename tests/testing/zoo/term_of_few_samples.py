"""A term with values for the wrong samples alone."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "its value has the shape"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        wrong = ctx.logits_adv.argmax(1) != ctx.batch.y
        loss = ctx.logits_adv[wrong].logsumexp(1)
        return {"x": Term(loss)}

    return penalty
