"""The inner maximisation of TRADES: PGD on KL(p || p'), where p is the clean prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis import Attacked, Ball, Batch, Forward, Run, maximise, random_start
from abatis_trades.loss import kl_divergence


class KLAttacker:
    """PGD on the KL, with the steps, step size and start of ``run.attack``."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        ball, attack = Ball(batch.x, self.run.threat), self.run.attack
        with torch.no_grad():
            log_p = forward(batch.x).log_softmax(dim=1)  # (B, K), the same at every step

        def divergence(logits: Tensor) -> Tensor:
            return kl_divergence(log_p, logits)  # (B,)

        start = random_start(self.run, ball)
        return maximise(forward, ball, start, batch.y, divergence, attack.steps, self.run.step_size)
