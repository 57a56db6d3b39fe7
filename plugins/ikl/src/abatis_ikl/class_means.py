"""The mean prediction of every class, which weighs the classes of the squared error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abatis import Run, StepContext, TrainerHooks
from abatis_ikl import IklConfig


class ClassMeans(TrainerHooks):
    """Row y: the mean of ``softmax(z / temperature)`` over the samples of class y, last epoch.

    In the first epoch all entries are 1/K. A class without samples keeps its row.
    """

    def __init__(self, run: Run) -> None:
        self.config = run.config(IklConfig)
        size = (run.num_classes, run.num_classes)
        self.means = torch.full(size, 1 / run.num_classes, device=run.device)  # (K, K)
        self.sums = torch.zeros_like(self.means)  # of this epoch
        self._latest: tuple[Tensor, Tensor] | None = None

    def weigh(self, y: Tensor, clean: Tensor) -> Tensor:
        """Return the weights of the classes, (B, K), for labels (B,) and clean logits (B, K)."""
        if self.config.weights == "samples":
            log_p = (clean / self.config.temperature).log_softmax(1)
            return (self.config.gamma * log_p).exp()
        return self.means[y].to(clean) ** self.config.gamma

    def note(self, logits: Tensor, y: Tensor) -> None:
        """Keep the logits (N, K) and labels (N,) of the global batch until the update is made."""
        self._latest = logits, y

    def after_update(self, ctx: StepContext) -> None:
        if self._latest is None:  # another loss is used
            return
        logits, y = self._latest
        predicted = (logits / self.config.temperature).softmax(1)
        self.sums.index_add_(0, y, predicted.to(self.sums))

    def epoch_end(self, epoch: int) -> None:
        totals = self.sums.sum(1, keepdim=True)  # (K, 1)
        self.means = torch.where(totals > 0, self.sums / totals, self.means)
        self.sums.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means.copy_(state["means"])
        self.sums.copy_(state["sums"])
