"""Max-norm constraint on the incoming weights of every unit, applied after each update.

They are scaled back to at most ``factor`` times their initial norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from abatis import Run, StepContext, TrainerHooks

if TYPE_CHECKING:
    from abatis_my_trainer import MyTrainerConfig


class MyTrainer(TrainerHooks):
    """The trainer hook ``my-trainer``; its state, the initial norms, is saved in checkpoints."""

    def __init__(self, run: Run, config: MyTrainerConfig) -> None:
        self.factor = config.factor
        # no biases, no batch norm
        self.weights = [weight for weight in run.net.module.parameters() if weight.dim() > 1]
        self.first = [compute_norms(weight) for weight in self.weights]

    @torch.no_grad()
    def after_update(self, ctx: StepContext) -> None:
        for weight, first in zip(self.weights, self.first, strict=True):
            now = compute_norms(weight)
            allowed = self.factor * first / now.clamp_min(torch.finfo(now.dtype).tiny)
            weight.mul_(allowed.clamp_max(1))  # (units, 1, ...)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first = [
            loaded.to(here.device) for loaded, here in zip(state["first"], self.first, strict=True)
        ]


def compute_norms(weight: Tensor) -> Tensor:
    """L2 norm of the incoming weights of each unit: (units, ...) -> (units, 1, ...), detached."""
    found: Tensor = torch.linalg.vector_norm(
        weight.detach(), dim=tuple(range(1, weight.dim())), keepdim=True
    )
    return found
