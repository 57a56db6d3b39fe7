"""IKL and GKL (Cui et al., NeurIPS 2024, arXiv 2305.13948; TPAMI 2026, arXiv 2503.08038).

    CE_i   = -log p_iy
    SCE_i  = - sum_k S(p_ik) log p'_ik,                               weighted by alpha
    WMSE_i = 1/4 sum_jk c_ij c_ik (a_ij - a_ik)^2 * N / sum_n (sum_k c_nk)^2,  weighted by beta

p: clean, p': adversarial softmax; a = z - z'; c_i: the class means of the label, to the power of
gamma; S stops the gradient. The double sum is 2 [(sum c)(sum c a^2) - (sum c a)^2].
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from abatis import Run, StepContext, Term, Terms
from abatis_ikl import IklConfig
from abatis_ikl.class_means import ClassMeans


class IklLoss:
    """The loss ``ikl``: the terms ``ce``, ``sce`` and ``wmse``."""

    def __init__(self, run: Run) -> None:
        self.config = run.config(IklConfig)
        self.class_means = run.shared(ClassMeans)

    def __call__(self, ctx: StepContext) -> Terms:
        adversarial = ctx.logits_adv  # first, as in the released code: batch norm sees it first
        clean, y = ctx.logits_clean, ctx.batch.y
        everyone = ctx.gather(y)  # (N,)
        self.class_means.note(ctx.gather(clean), everyone)
        weights = self.class_means.weigh(y, clean)  # (B, K)
        norm = self.class_means.weigh(everyone, clean).sum(1).square().mean()
        wmse = weighted_squares(clean - adversarial, weights) / norm
        return {
            "ce": Term(F.cross_entropy(clean, y, reduction="none")),
            "sce": Term(soft_cross_entropy(clean, adversarial), self.config.alpha, reweight=True),
            "wmse": Term(wmse, self.config.beta, reweight=True),
        }


def soft_cross_entropy(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return the cross-entropy from the clean prediction, which is held fixed: (B, K) to (B,)."""
    return -(clean.detach().softmax(1) * adversarial.log_softmax(1)).sum(1)


def weighted_squares(difference: Tensor, weights: Tensor) -> Tensor:
    """Return a quarter of the weighted squared differences of all pairs of classes.

    Args:
        difference: of the clean and the adversarial logits, (B, K).
        weights: of the classes, (B, K).

    Returns:
        One value per sample, (B,).
    """
    first = (weights * difference).sum(1)
    second = (weights * difference.square()).sum(1)
    return (weights.sum(1) * second - first.square()) / 2
