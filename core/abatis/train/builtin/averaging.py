"""Exponential moving average of the weights, kept by a trainer hook."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from abatis.api.context import StepContext, TrainerHooks
from abatis.nets.copying import copy_module


class WeightAveraging(TrainerHooks):
    """``averaged <- decay * averaged + (1 - decay) * weights`` after every update.

    The decay is ``min(decay, (1 + t) / (10 + t))`` after t updates behind the warm-up, so that
    early averages forget the initialisation; before, it is 0. Running statistics are copied, not
    averaged.

    Args:
        module: The network whose weights are averaged.
        decay: That of the average, in [0, 1).
        twin: Holds the averages of a module that cannot be copied; saved by whoever gives it.
        warmup: Updates of the warm-up.
    """

    def __init__(
        self,
        module: nn.Module,
        decay: float,
        twin: nn.Module | None = None,
        warmup: float = 0.0,
    ) -> None:
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.source = module
        self.twin = twin
        self.averaged = copy_module(module).requires_grad_(False) if twin is None else twin

    @torch.no_grad()
    def after_update(self, ctx: StepContext) -> None:
        self.updates += 1
        decay = self.find_decay(self.updates)
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        pairs = zip(self.averaged.parameters(), self.source.parameters(), strict=True)
        for average, weight in pairs:
            if average.is_floating_point() or average.is_complex():
                averages.append(average)
                weights.append(weight)
            else:
                average.copy_(weight)
        if averages:
            torch._foreach_lerp_(averages, weights, 1 - decay)
        self.copy_buffers()

    def find_decay(self, updates: int) -> float:
        """The decay of an update, which counts from 1."""
        behind = updates - self.warmup
        return 0.0 if behind < 0 else min(self.decay, (1 + behind) / (10 + behind))

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Take the running statistics as they are now."""
        pairs = list(zip(self.averaged.buffers(), self.source.buffers(), strict=True))
        # tensors of one type are copied by one kernel
        for dtype in {kept.dtype for kept, _ in pairs}:
            alike = [pair for pair in pairs if pair[0].dtype == dtype]
            torch._foreach_copy_([kept for kept, _ in alike], [buffer for _, buffer in alike])

    def judged(self) -> nn.Module:
        return self.averaged

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "averaged": self.averaged.state_dict() if self.twin is None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        if self.twin is None:
            self.averaged.load_state_dict(state["averaged"])
