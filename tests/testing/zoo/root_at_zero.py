"""The norm of an input gradient by a bare square root, NaN in the gradient where it is 0."""

from __future__ import annotations

import torch

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_values_and_gradients_are_finite_at_extreme_logits"
WORDS = "logits times 0"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        x = ctx.x_adv.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(
            ctx.net.frozen(x).max(1).values.sum(), x, create_graph=True
        )
        return {"x": Term(gradient.square().flatten(1).sum(1).sqrt())}

    return penalty
