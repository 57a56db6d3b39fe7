"""The attack of SCORE: PGD on the distance from the clean to the adversarial prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis import Attacked, Ball, Batch, Forward, Run, maximise, random_start
from abatis_score import ScoreConfig
from abatis_score.loss import DISTANCES


class DistanceAttacker:
    """PGD with the steps, step size and start of ``run.attack``; it uses no label."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.distance = DISTANCES[run.config(ScoreConfig).distance]

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        ball, attack = Ball(batch.x, self.run.threat), self.run.attack
        with torch.no_grad():
            clean = forward(batch.x).softmax(1)  # (B, K), the same at every step

        def distance(logits: Tensor) -> Tensor:
            return self.distance(logits.softmax(1), clean)  # (B,)

        start = random_start(self.run, ball)
        return maximise(forward, ball, start, batch.y, distance, attack.steps, self.run.step_size)
