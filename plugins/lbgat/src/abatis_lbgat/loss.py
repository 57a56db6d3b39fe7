"""Learnable boundary guided adversarial training (Cui et al., ICCV 2021, arXiv 2011.11164).

    mse_i = mean_k (z_S,k(x') - z_T,k(x))^2
    ce_i  = CE(z_T(x), y)
    kl_i  = KL(p_S(x) || p_S(x')),  weighted by beta

S is the network that is judged, T the teacher, which sees clean images only. Nothing is detached:
the teacher learns from mse and ce, the student from mse and kl.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import (
    Attacked,
    Ball,
    Batch,
    Forward,
    Network,
    Run,
    StepContext,
    Term,
    Terms,
    maximise,
    random_start,
)


class LbgatLoss:
    """The loss ``lbgat``: the terms ``mse``, ``ce`` and ``kl``."""

    def __init__(self, teacher: Network, beta: float) -> None:
        self.teacher = teacher
        self.beta = beta

    def __call__(self, ctx: StepContext) -> Terms:
        # in this order, on which the running statistics depend
        adversarial, clean = ctx.logits_adv, ctx.logits_clean  # (B, K)
        guide = self.teacher(ctx.batch.x)  # (B, K)
        return {
            "mse": Term((adversarial - guide).square().mean(1), reweight=True),
            "ce": Term(F.cross_entropy(guide, ctx.batch.target, reduction="none")),
            "kl": Term(kl_divergence(clean.log_softmax(1), adversarial), self.beta, reweight=True),
        }


def kl_divergence(log_p: Tensor, logits: Tensor) -> Tensor:
    """Return KL(p || softmax(logits)) of every sample: (B, K), (B, K) -> (B,)."""
    return (log_p.exp() * (log_p - logits.log_softmax(1))).sum(1)


class KLAttacker:
    """PGD on the KL of the student, with the steps, step size and start of ``--attack.*``."""

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
