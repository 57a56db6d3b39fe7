"""The losses of TWINS, where the halves of the batch count by themselves.

    at:      lambda CE_first(x') + CE_second(x')
    trades:  lambda CE_first(x) + CE_second(x) + beta (lambda sum_first KL + sum_second KL) / B

CE_first and CE_second are means over their half, KL is KL(p(x) || p(x')). Each micro-batch and
process has halves of its own.
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
    Run,
    StepContext,
    Term,
    Terms,
    maximise,
    random_start,
)
from abatis_twins import TwinsConfig


class TwinsLoss:
    """The loss ``twins``: ``ce``, and ``kl`` in trades."""

    def __init__(self, run: Run) -> None:
        self.config = run.config(TwinsConfig)

    def __call__(self, ctx: StepContext) -> Terms:
        adversarial, y = ctx.logits_adv, ctx.batch.y  # x' first: batch norm sees it first
        rows = torch.arange(len(y), device=y.device)
        first = (rows < len(y) // 2).to(adversarial.dtype)  # (B,)
        weights = self.config.frozen * first + (1 - first)  # (B,)
        sizes = first * first.sum() + (1 - first) * (1 - first).sum()  # (B,) of one's own half
        logits = ctx.logits_clean if self.config.form == "trades" else adversarial
        entropy = F.cross_entropy(logits, y, reduction="none")  # (B,)
        terms = {"ce": Term(entropy * weights * len(y) / sizes, reweight=True)}
        if self.config.form == "trades":
            kl = divergence(ctx.logits_clean.log_softmax(1), adversarial) * weights
            terms["kl"] = Term(kl, self.config.beta, reweight=True)
        return terms


def divergence(log_p: Tensor, logits: Tensor) -> Tensor:
    """Return KL(p || softmax(logits)) of every sample: (B, K), (B, K) -> (B,)."""
    return (log_p.exp() * (log_p - logits.log_softmax(1))).sum(1)


class KLAttacker:
    """PGD on the KL to the clean prediction, with the options ``--attack.*``."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        ball, steps = Ball(batch.x, self.run.threat), self.run.attack.steps
        with torch.no_grad():
            log_p = forward(batch.x).log_softmax(1)  # (B, K)

        def objective(logits: Tensor) -> Tensor:
            return divergence(log_p, logits)

        start = random_start(self.run, ball)
        return maximise(forward, ball, start, batch.y, objective, steps, self.run.step_size)
