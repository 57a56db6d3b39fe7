"""The attack of IKL: PGD on the cross-entropy from the clean prediction, in a growing ball."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis import Attacked, Ball, Batch, Forward, Run, maximise, random_start
from abatis_ikl import IklConfig
from abatis_ikl.class_means import ClassMeans
from abatis_ikl.loss import soft_cross_entropy, weighted_squares


class GrowingAttacker:
    """PGD with the steps and the start of ``run.attack``, in a radius that may grow by epochs."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.config = run.config(IklConfig)
        self.class_means = run.shared(ClassMeans)

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        radius = self.run.threat.eps
        if self.config.grow:
            radius *= min(1.0, (self.run.now.epoch + 1) / self.run.epochs)
        ball = Ball(batch.x, self.run.threat, batch.x.new_full((len(batch),), radius))
        with torch.no_grad():
            clean = forward(batch.x)  # (B, K), the same at every step
        weights = self.class_means.weigh(batch.y, clean)

        def divergence(logits: Tensor) -> Tensor:
            value = soft_cross_entropy(clean, logits, self.config.ce_temperature)  # (B,)
            if self.config.attack_beta:
                squares = weighted_squares(clean - logits, weights)
                value = value + self.config.attack_beta * squares / weights.sum(1).square()
            return value

        start, steps = random_start(self.run, ball), self.run.attack.steps
        return maximise(forward, ball, start, batch.y, divergence, steps, self.config.step * radius)
