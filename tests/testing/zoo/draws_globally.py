"""Noise from the global generator of numpy."""

from __future__ import annotations

import numpy as np
import torch

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_leaves_everything_as_found"
WORDS = "the global generator of numpy"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        noise = torch.from_numpy(np.random.rand(len(ctx.batch)))
        return {"x": Term(ctx.logits_adv.logsumexp(1) * noise)}

    return penalty
