"""The objective of a step as ``before_loss`` gets it: computed again at each call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abatis.api.term import Term, Terms, total
from abatis.nets.net import Net
from abatis.train.micro_batches import MicroBatches
from abatis.train.plan import Plan


class StepObjective:
    """The total of one process, and its terms, without a change to the network's buffers.

    Args:
        net: The network.
        plan: Gives the terms.
        micros: The micro-batches of the step.
    """

    def __init__(self, net: Net, plan: Plan, micros: MicroBatches) -> None:
        self.net = net
        self.plan = plan
        self.micros = micros

    def __call__(self) -> Tensor:
        """This process's share of the total, ()."""
        with self.net.restore_buffers():
            shares = [
                total(self.plan.terms(ctx)) * (len(ctx.batch) / ctx.global_size)
                for ctx in self.micros
            ]
        return torch.stack(shares).sum()

    def terms(self) -> Terms:
        """The terms of all rows of this process: values (B,) or ()."""
        with self.net.restore_buffers():
            parts = [self.plan.terms(ctx) for ctx in self.micros]
        sizes = [cut.stop - cut.start for cut in self.micros.cuts]
        return {name: _join_parts([part[name] for part in parts], sizes) for name in parts[0]}


def _join_parts(parts: Sequence[Term], sizes: Sequence[int]) -> Term:
    """One term of several micro-batches: rows behind each other, or the mean over all rows."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if first.value.dim() == 1:
        return Term(torch.cat([part.value for part in parts]), first.weight, first.reweight)
    shares = [part.value * (size / sum(sizes)) for part, size in zip(parts, sizes, strict=True)]
    return Term(torch.stack(shares).sum(), first.weight, first.reweight)
