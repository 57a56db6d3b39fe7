"""The losses of hypersphere embedding, on logits that are s times cosines c, and the KL attack.

HE_i(c) = CE(s (c - m onehot), y_i)
at:       HE(c')
trades:   HE(c) + beta KL(softmax(s c) || softmax(s c'))
alp:      HE(c) / 2 + HE(c') / 2 + beta mean_k (c_k - c'_k)^2
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import (
    Attacked,
    Ball,
    Batch,
    Forward,
    Run,
    StepContext,
    Term,
    Terms,
    maximise,
    random_start,
)

if TYPE_CHECKING:
    from abatis_he import HeConfig


class HeLoss:
    """The loss ``he``: ``he`` and ``kl``, or ``he_clean``, ``he_adv`` and ``pair``."""

    def __init__(self, config: HeConfig) -> None:
        self.config = config

    def __call__(self, ctx: StepContext) -> Terms:
        form, beta, y = self.config.form, self.config.beta, ctx.batch.y
        if form == "at":
            return {"he": Term(self._classify(ctx.logits_adv, y), reweight=True)}
        clean, adversarial = ctx.logits_clean, ctx.logits_adv
        if form == "trades":
            kl = kl_divergence(clean.log_softmax(1), adversarial)  # (B,)
            return {"he": Term(self._classify(clean, y)), "kl": Term(kl, beta, reweight=True)}
        pair = ((clean - adversarial) / self.config.s).square().mean(1)  # (B,)
        return {
            "he_clean": Term(self._classify(clean, y), 0.5),
            "he_adv": Term(self._classify(adversarial, y), 0.5, reweight=True),
            "pair": Term(pair, beta),
        }

    def _classify(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy with the margin, (B,)."""
        ones = torch.zeros_like(logits).scatter_(1, y[:, None], 1)  # one_hot would make a GPU wait
        margin = self.config.s * self.config.m * ones
        return F.cross_entropy(logits - margin, y, reduction="none")


def kl_divergence(log_p: Tensor, logits: Tensor) -> Tensor:
    """Return KL(p || softmax(logits)) of every sample: (B, K), (B, K) -> (B,)."""
    return (log_p.exp() * (log_p - logits.log_softmax(1))).sum(1)


class KLAttacker:
    """PGD on the KL to the clean prediction, with the options ``--attack.*``."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        ball, attack = Ball(batch.x, self.run.threat), self.run.attack
        with torch.no_grad():
            log_p = forward(batch.x).log_softmax(1)  # (B, K), the same at every step

        def divergence(logits: Tensor) -> Tensor:
            return kl_divergence(log_p, logits)  # (B,)

        start = random_start(self.run, ball)
        return maximise(forward, ball, start, batch.y, divergence, attack.steps, self.run.step_size)
