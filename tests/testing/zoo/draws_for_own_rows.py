"""Draws keyed by the step alone, the same for the rows of every process."""

from __future__ import annotations

import torch

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_processes_and_micro_batches_make_the_update_of_one"
WORDS = "run.random"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        noise = torch.rand(len(ctx.batch), generator=torch.Generator().manual_seed(ctx.step))
        return {"x": Term(ctx.logits_adv.logsumexp(1) * noise)}

    return penalty
