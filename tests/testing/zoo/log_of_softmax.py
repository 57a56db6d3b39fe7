"""The logarithm of a softmax, NaN in the gradient where a probability underflows."""

from __future__ import annotations

import torch.nn.functional as F

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_values_and_gradients_are_finite_at_extreme_logits"
WORDS = "logits times 10000"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        return {
            "x": Term(F.nll_loss(ctx.logits_adv.softmax(1).log(), ctx.batch.y, reduction="none"))
        }

    return penalty
