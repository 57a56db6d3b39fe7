"""The distillation of KD-SWA (Chen et al., ICLR 2021) from a standard and a robust network.

    ce_i    = CE(z(x'_i), y_i),                                            weighted by 0.3
    H(q)_i  = - T^2 sum_k softmax(z_q(x'_i) / T)_k log softmax(z(x'_i) / T)_k

with the teachers q frozen: the standard one is weighted by 0.1, the robust one by 0.6.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from abatis import Network, StepContext, Term, Terms
from abatis_seat import SeatConfig


class DistillationLoss:
    """The loss ``seat``: the terms ``ce``, ``kd_standard`` and ``kd_robust``."""

    def __init__(self, standard: Network, robust: Network, config: SeatConfig) -> None:
        self.standard = standard
        self.robust = robust
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        config, logits = self.config, ctx.logits_adv
        terms = {
            "ce": Term(
                F.cross_entropy(logits, ctx.batch.target, reduction="none"),
                config.ce_weight,
                reweight=True,
            )
        }
        for name, teacher, weight in (
            ("kd_standard", self.standard, config.standard_weight),
            ("kd_robust", self.robust, config.robust_weight),
        ):
            guide = teacher(ctx.x_adv).detach()  # (B, K)
            value = soften_cross_entropy(guide, logits, config.temperature)
            terms[name] = Term(value, weight, reweight=True)
        return terms


def soften_cross_entropy(guide: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the cross-entropy from softened to softened prediction: (B, K) to (B,)."""
    softened = (guide / temperature).softmax(1)
    return -(temperature**2) * (softened * (logits / temperature).log_softmax(1)).sum(1)
