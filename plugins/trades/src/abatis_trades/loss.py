"""Clean cross-entropy plus KL from clean to adversarial prediction (Zhang et al., ICML 2019).

    CE_i = -(1 - e) log p_iy - (e / K) sum_k log p_ik,  e: label smoothing, 0 as released
    KL_i = sum_k p_ik (log p_ik - log p'_ik),  weighted by beta

p: clean, p': adversarial softmax. Nothing is detached: the gradient flows through both arguments of
the KL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from abatis import StepContext, Term, Terms

if TYPE_CHECKING:
    from abatis_trades import TradesConfig


class TradesLoss:
    """The loss ``trades``: the terms ``ce`` and ``kl``."""

    def __init__(self, config: TradesConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        ce = F.cross_entropy(
            ctx.logits_clean,
            ctx.batch.target,
            reduction="none",
            label_smoothing=self.config.smoothing,
        )  # (B,)
        kl = kl_divergence(ctx.logits_clean.log_softmax(dim=1), ctx.logits_adv)  # (B,)
        return {"ce": Term(ce), "kl": Term(kl, weight=self.config.beta, reweight=True)}


def kl_divergence(log_p: Tensor, logits: Tensor) -> Tensor:
    """Return KL(p || softmax(logits)) of every sample: (B, K), (B, K) -> (B,).

    It takes log p, so no logarithm of a probability that underflows to 0 is needed.
    """
    return (log_p.exp() * (log_p - logits.log_softmax(dim=1))).sum(1)
