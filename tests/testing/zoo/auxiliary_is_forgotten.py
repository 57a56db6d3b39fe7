"""A teacher that the plugin trains by itself, and that no checkpoint keeps."""

from __future__ import annotations

import copy

import torch

from abatis import Loss, Run, StepContext, Term, Terms, TrainerHooks, hookimpl

FAILS = "test_goes_on_from_its_state"
WORDS = "in a network of run.auxiliary"


class Teacher(TrainerHooks):
    def __init__(self, run: Run) -> None:
        self.module = copy.deepcopy(run.net.module)

    def loss(self, ctx: StepContext) -> Terms:
        with torch.no_grad():
            guide = self.module(ctx.batch.x)
        return {"mse": Term((ctx.logits_adv - guide).square().mean(1))}

    def after_update(self, ctx: StepContext) -> None:
        loss = torch.nn.functional.cross_entropy(self.module(ctx.batch.x), ctx.batch.y)
        weights = list(self.module.parameters())
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            torch._foreach_sub_(weights, torch._foreach_mul(gradients, 0.1))


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    return run.shared(Teacher)


@hookimpl
def defense_loss(run: Run) -> Loss:
    return run.shared(Teacher).loss
