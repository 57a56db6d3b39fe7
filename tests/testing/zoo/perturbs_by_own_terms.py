"""Weights moved along the gradient of the mean over the terms of one process's rows."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis import Objective, Run, StepContext, TrainerHooks, hookimpl

FAILS = "test_processes_and_micro_batches_make_the_update_of_one"
WORDS = "ctx.sum_over_processes"


class Perturbation(TrainerHooks):
    def __init__(self, run: Run) -> None:
        self.weights = [weight for weight in run.net.module.parameters() if weight.dim() > 1]
        self.added: list[Tensor] = []

    def before_loss(self, ctx: StepContext, objective: Objective) -> None:
        (value,) = (term.value for term in objective.terms().values())  # (B,)
        wrong = value[value > value.mean()].sum()
        self.added = [0.01 * part for part in torch.autograd.grad(wrong, self.weights)]
        self._add(1)

    def after_update(self, ctx: StepContext) -> None:
        self._add(-1)

    @torch.no_grad()
    def _add(self, factor: float) -> None:
        for weight, part in zip(self.weights, self.added, strict=True):
            weight.add_(part, alpha=factor)


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    return Perturbation(run)
