"""A weight that rises from step to step and starts anew in a resumed run."""

from __future__ import annotations

from abatis import Regularizer, Run, StepContext, Term, Terms, TrainerHooks, hookimpl

FAILS = "test_goes_on_from_its_state"
WORDS = "keep what lasts from step to step"


class Rising(TrainerHooks):
    weight = 0.0

    def penalty(self, ctx: StepContext) -> Terms:
        return {"x": Term(ctx.logits_adv.logsumexp(1), weight=self.weight)}

    def after_update(self, ctx: StepContext) -> None:
        self.weight += 0.1


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    run.net.module.rising = Rising()
    return run.net.module.rising


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    return lambda ctx: run.net.module.rising.penalty(ctx)
