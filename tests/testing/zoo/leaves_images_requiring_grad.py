"""Images that require a gradient afterwards."""

from __future__ import annotations

import torch

from abatis import Regularizer, Run, StepContext, Term, Terms, hookimpl

FAILS = "test_leaves_everything_as_found"
WORDS = "the images"


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    def penalty(ctx: StepContext) -> Terms:
        x = ctx.batch.x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(ctx.net.frozen(x).sum(), x, create_graph=True)
        return {"x": Term(gradient.square().flatten(1).sum(1))}

    return penalty
