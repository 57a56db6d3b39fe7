"""Running statistics moved by a forward pass in training mode."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_leaves_everything_as_found"
WORDS = "1.running_mean"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        norm = ctx.net.module[1]
        norm.training = True
        norm(ctx.net.module[0](ctx.batch.x))
        norm.training = False
        return {"x": Term(ctx.logits_adv.logsumexp(1))}

    return penalty
