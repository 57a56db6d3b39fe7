"""A weight that grows with the calls, counted where every run counts."""

from __future__ import annotations

import itertools

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_the_same_seed_gives_the_same_total"
WORDS = "from the same seed"


CALLS = itertools.count(1)


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        return {"x": Term(ctx.logits_adv.logsumexp(1) * next(CALLS))}

    return penalty
