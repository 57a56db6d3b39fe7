"""A batch of one sample is squeezed away."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "B=1"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        true = ctx.logits_adv.softmax(1)
        return {"x": Term(true.squeeze().sum(1).squeeze())}

    return penalty
