"""A margin to the third-best class, which not every data set has."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "K=2"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        return {"x": Term(ctx.logits_adv.topk(3).values[:, 2])}

    return penalty
