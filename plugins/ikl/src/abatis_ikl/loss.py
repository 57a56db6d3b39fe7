"""IKL and GKL (Cui et al., NeurIPS 2024, arXiv 2305.13948; TPAMI 2026, arXiv 2503.08038).

    CE_i   = -log p_iy
    SCE_i  = - sum_k S(p_ik) log p'_ik,                               weighted by alpha
    WMSE_i = 1/4 sum_jk c_ij c_ik (a_ij - a_ik)^2 * N / sum_n (sum_k c_nk)^2,  weighted by beta

p: clean, p': adversarial softmax; a = z - z'; c_i: the class means of the label, or the prediction
of the sample, to the power of gamma; S stops the gradient. The double sum is
2 [(sum c)(sum c a^2) - (sum c a)^2].
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
        self.class_means.note(ctx.gather(clean), ctx.gather(y))
        sce = soft_cross_entropy(clean, adversarial, self.config.ce_temperature)
        return {
            "ce": Term(F.cross_entropy(clean, y, reduction="none")),
            "sce": Term(sce, self.config.alpha, reweight=True),
            "wmse": Term(self._weigh_squares(ctx), self.config.beta, reweight=True),
        }

    def _weigh_squares(self, ctx: StepContext) -> Tensor:
        """Return WMSE, (B,), with the gradient of its mean over the global batch."""
        weights = self.class_means.weigh(ctx.batch.y, ctx.logits_clean)  # (B, K)
        squares = weighted_squares(ctx.logits_clean - ctx.logits_adv, weights)
        masses = weights.sum(1).square()  # (B,)
        norm = ctx.gather(masses).mean()
        if self.config.weights == "classes":
            return squares / norm
        # a sample's mass is in the norm of all: d(s/norm) = ds/norm - s/norm^2 d(norm)
        share = ctx.gather(squares).mean() / norm.square()
        return squares / norm - share * (masses - masses.detach())


def soft_cross_entropy(clean: Tensor, adversarial: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the cross-entropy from the clean prediction, which is held fixed: (B, K) to (B,)."""
    fixed = (clean.detach() / temperature).softmax(1)
    return -(fixed * (adversarial / temperature).log_softmax(1)).sum(1)


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
