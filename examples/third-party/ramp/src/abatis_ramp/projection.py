"""The gradient projection of RAMP: what a natural epoch and an adversarial one have in common.

    w <- w0 + a max(0, cos(g, n)) n + (1 - a) g,   g = w_adv - w0,  n = w_nat - w0

for every tensor of the state, at the end of every epoch; w0: the network at its start; w_nat: a
copy that is trained on the same images without an attack, and begins every epoch at w0.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import Run, StepContext, TrainerHooks
from abatis_ramp import RampConfig


class Projection(TrainerHooks):
    """The trainer hook ``ramp``, with the natural copy as an auxiliary network."""

    def __init__(self, run: Run) -> None:
        self.share = run.config(RampConfig).natural
        self.module = run.net.module
        self.natural = run.auxiliary("natural", copy.deepcopy(self.module), train=True)
        self.start: dict[str, Tensor] = {}
        self._begin()

    def entropy(self, ctx: StepContext) -> Tensor:
        """Return the cross-entropy of the natural copy, (B,)."""
        return F.cross_entropy(self.natural(ctx.batch.x), ctx.batch.y, reduction="none")

    @torch.no_grad()
    def epoch_end(self, epoch: int) -> None:
        own, natural = self.module.state_dict(), self.natural.module.state_dict()
        for name, tensor in own.items():
            if tensor.is_floating_point():
                tensor.copy_(project(self.start[name], natural[name], tensor, self.share))
        self._begin()
        self.natural.module.load_state_dict(self.start)

    def _begin(self) -> None:
        self.start = {name: part.clone() for name, part in self.module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.start)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, tensor in self.start.items():
            tensor.copy_(state[name])


def project(start: Tensor, natural: Tensor, adversarial: Tensor, share: float) -> Tensor:
    """Return one tensor at the end of an epoch, in its shape.

    Args:
        start: at the start of the epoch.
        natural: of the natural copy at its end.
        adversarial: of the network at its end.
        share: a, the weight of the natural part.
    """
    n, g = natural - start, adversarial - start
    cosine = F.cosine_similarity(g.flatten(), n.flatten(), dim=0).clamp(min=0)
    return start + share * cosine * n + (1 - share) * g
