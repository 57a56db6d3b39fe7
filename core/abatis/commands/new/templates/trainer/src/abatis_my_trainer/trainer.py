"""After each update the incoming weights of every unit are scaled back to at most ``factor`` times their first norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from abatis import Run, StepContext, TrainerHooks

if TYPE_CHECKING:
    from abatis_my_trainer import MyTrainerConfig


class MyTrainer(TrainerHooks):
    """The trainer hook ``my-trainer``. Its state, the first norms, goes into checkpoints."""

    def __init__(self, run: Run, config: MyTrainerConfig) -> None:
        self.factor = config.factor
        self.weights = [
            weight for weight in run.net.module.parameters() if weight.dim() > 1
        ]  # no biases, no batch norm
        self.first = [norms(weight) for weight in self.weights]

    @torch.no_grad()
    def after_update(self, ctx: StepContext) -> None:
        for weight, first in zip(self.weights, self.first, strict=True):
            now = norms(weight)
            scale = (self.factor * first / now.clamp_min(torch.finfo(now.dtype).tiny)).clamp_max(
                1
            )  # (units, 1, ...)
            weight.mul_(scale)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first = [
            loaded.to(here.device) for loaded, here in zip(state["first"], self.first, strict=True)
        ]


def norms(weight: Tensor) -> Tensor:
    """L2 norm of the incoming weights of each unit, detached: (units, ...) -> (units, 1, ...)."""
    found: Tensor = torch.linalg.vector_norm(
        weight.detach(), dim=tuple(range(1, weight.dim())), keepdim=True
    )
    return found
