"""Adversarial weight perturbation (Wu, Xia & Wang, NeurIPS 2020), as in the released code.

    v = gamma ||w|| g / (||g|| + 1e-20),   g = grad_w objective(w),
                                           for each tensor w with more than one dimension

The update uses the gradient at w + v and is applied there, weight decay included; then v is
subtracted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from abatis import StepContext, TrainerHooks

if TYPE_CHECKING:
    from abatis_awp import AwpConfig

FLOOR = 1e-20


class WeightPerturbation(TrainerHooks):
    """The trainer hook ``awp``. It keeps no state between steps."""

    def __init__(self, config: AwpConfig, module: nn.Module) -> None:
        self.config = config
        self.weights: list[Tensor] = [
            weight for weight in module.parameters() if weight.requires_grad and weight.dim() > 1
        ]
        self.added: list[Tensor] = []  # v of every weight, between before_loss and after_update

    def before_loss(self, ctx: StepContext, objective: Callable[[], Tensor]) -> None:
        self._restore()  # an interrupted step did not reach after_update
        if not self.config.count_past("warmup", ctx.epoch, ctx.progress):
            return
        gradients = self._gradients(ctx, objective)
        with torch.no_grad():
            lengths = torch.stack(torch._foreach_norm(self.weights))  # (W,), of W tensors
            steepness = torch.stack(torch._foreach_norm(gradients))  # (W,)
            factors = self.config.gamma * lengths / (steepness + FLOOR)  # (W,)
            self.added = list(torch._foreach_mul(gradients, factors.unbind()))
            torch._foreach_add_(self.weights, self.added)

    def after_update(self, ctx: StepContext) -> None:
        self._restore()

    def _gradients(self, ctx: StepContext, objective: Callable[[], Tensor]) -> list[Tensor]:
        """Return the gradients of the objective of the global batch."""
        own = torch.autograd.grad(
            objective(), self.weights, allow_unused=True, materialize_grads=True
        )
        return ctx.sum_over_processes(own)

    @torch.no_grad()
    def _restore(self) -> None:
        if self.added:
            torch._foreach_sub_(self.weights, self.added)
        self.added = []
