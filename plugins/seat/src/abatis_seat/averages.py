"""Averages of the weights that are judged in place of the weights themselves.

SEAT (Wang and Wang, ICLR 2022), after update t, counted from 0, over parameters and buffers:

    average <- d average + (1 - d) weights,   d = min(decay, (t + 1) / (t + 10))

SWA as in KD-SWA (Chen et al., ICLR 2021), after epoch n, counted from the first that is averaged:

    average <- n / (n + 1) average + 1 / (n + 1) weights,   then running statistics afresh
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from abatis import Run, StepContext, TrainerHooks
from abatis_seat import SeatConfig


class Average(TrainerHooks):
    """A copy of the network with averaged weights, judged once something was averaged."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.config = run.config(SeatConfig)
        self.source = run.net.module
        self.module = copy.deepcopy(run.net.module).requires_grad_(False)
        self.count = 0

    def judged(self) -> nn.Module | None:
        return self.module if self.count else None

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.module.load_state_dict(state["module"])


class UpdateAverage(Average):
    """SEAT's average, over all updates."""

    @torch.no_grad()
    def after_update(self, ctx: StepContext) -> None:
        decay = min(self.config.decay, (self.count + 1) / (self.count + 10))
        self.count += 1
        for average, weight in zip(self.module.parameters(), self.source.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        buffers = list(self.source.buffers())
        for buffer, value in zip(self.module.buffers(), share(buffers, ctx), strict=True):
            buffer.copy_(decay * buffer + (1 - decay) * value)  # counters are cut off


class EpochAverage(Average):
    """SWA's average, over epochs, with running statistics of its own."""

    @torch.no_grad()
    def epoch_end(self, epoch: int) -> None:
        if not self.config.count_past("start", epoch, self.run.now.progress):
            return
        for average, weight in zip(self.module.parameters(), self.source.parameters(), strict=True):
            average.lerp_(weight, 1 / (self.count + 1))
        self.count += 1
        self.run.restatistics(self.module)


def share(buffers: list[Tensor], ctx: StepContext) -> list[Tensor]:
    """Return the means of floating-point buffers over the processes, and others as they are."""
    floats = [buffer for buffer in buffers if buffer.is_floating_point()]
    if not floats:
        return buffers
    *sums, count = ctx.sum_over_processes([*floats, floats[0].new_ones(())])
    means = iter([total / count for total in sums])
    return [next(means) if buffer.is_floating_point() else buffer for buffer in buffers]
