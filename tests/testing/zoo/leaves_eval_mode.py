"""The network left in another mode."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_leaves_everything_as_found"
WORDS = "the mode of the network"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        value = ctx.logits_adv.logsumexp(1)
        ctx.net.module.train()
        return {"x": Term(value)}

    return penalty
