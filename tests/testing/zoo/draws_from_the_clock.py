"""Noise from a generator that no seed reaches."""

from __future__ import annotations

from random import SystemRandom

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_the_same_seed_gives_the_same_total"
WORDS = "from the same seed"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        return {"x": Term(ctx.logits_adv.logsumexp(1) * SystemRandom().random())}

    return penalty
