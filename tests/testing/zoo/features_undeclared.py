"""A loss on features whose options class does not say that it reads them."""

from __future__ import annotations

from abatis import Loss, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "keep no features"


@hookimpl
def defense_loss(run: Run) -> Loss:
    def loss(ctx: StepContext) -> Terms:
        return {"gap": Term((ctx.features_adv - ctx.features_clean).square().sum(1))}

    return loss
