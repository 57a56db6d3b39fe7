"""A penalty on the last layer by its place, which other networks do not have."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "tiny_vit"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        return {"x": Term(ctx.net.module[-1].weight.square().sum())}

    return penalty
