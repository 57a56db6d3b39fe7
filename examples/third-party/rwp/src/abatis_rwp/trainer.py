"""Robust weight perturbation (Yu et al., IJCAI 2022, arXiv 2205.14826), as in the released code.

    u <- u + grad mean_i 1[l_i < c] l_i  at  w + gamma v,   v = ||w|| / ||u|| u,   ten times

w: all tensors of more than one dimension that are named weight, together; l_i: all terms of the
loss that have a value per sample. The update uses the gradient at w + gamma v and is applied there;
then gamma v is subtracted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abatis import Objective, Run, StepContext, Terms, TrainerHooks
from abatis_rwp import RwpConfig

FLOOR = 1e-20


class RobustPerturbation(TrainerHooks):
    """The trainer hook ``rwp``. It keeps no state between steps."""

    def __init__(self, run: Run) -> None:
        self.config = run.config(RwpConfig)
        self.weights: list[Tensor] = [
            weight
            for name, weight in run.net.module.named_parameters()
            if weight.requires_grad and weight.dim() > 1 and "weight" in name
        ]
        self.added: list[Tensor] = []  # gamma v, between before_loss and after_update

    def before_loss(self, ctx: StepContext, objective: Objective) -> None:
        self._restore()  # an interrupted step did not reach after_update
        length = find_length(self.weights)
        climbed = [torch.zeros_like(weight) for weight in self.weights]  # u
        for _ in range(self.config.steps):
            loss = self.sum_small(objective.terms()) / ctx.global_size
            own = torch.autograd.grad(loss, self.weights, allow_unused=True, materialize_grads=True)
            torch._foreach_add_(climbed, ctx.sum_over_processes(own))
            scale = self.config.gamma * length / (find_length(climbed) + FLOOR)  # ()
            self._restore()
            with torch.no_grad():
                self.added = [part * scale for part in climbed]
                torch._foreach_add_(self.weights, self.added)

    def after_update(self, ctx: StepContext) -> None:
        self._restore()

    def sum_small(self, terms: Terms) -> Tensor:
        """Return the sum of the losses below the limit, ()."""
        each = [term.weight * term.value for term in terms.values() if term.value.dim()]
        values = torch.stack(each).sum(0)  # (B,)
        return torch.where(values.detach() < self.config.below, values, 0).sum()

    @torch.no_grad()
    def _restore(self) -> None:
        if self.added:
            torch._foreach_sub_(self.weights, self.added)
        self.added = []


def find_length(tensors: list[Tensor]) -> Tensor:
    """Return the norm of all of them together, ()."""
    with torch.no_grad():
        lengths = torch.stack(list(torch._foreach_norm(tensors)))
        return lengths.square().sum().sqrt()
