"""Projected gradient ascent inside a ball (Madry et al., ICLR 2018), and the attackers a run starts from."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis.ball import Ball
from abatis.types import Attacked, Batch, Forward, Run

Objective = Callable[[Tensor], Tensor]
"""Logits (B, K) to the quantity the attack raises, (B,)."""

NORMAL_START = 1e-3  # standard deviation of the small normal start, in pixel units


def random_start(run: Run, ball: Ball) -> Tensor:
    """Where an attack begins, by ``run.attack.start``: (B, C, H, W).

    The uniform start lies in ball and box. The small normal start is *not* clipped: published code takes its first
    gradient there as it is.
    """
    normal = run.random.normal("attack/normal", ball.x) if run.attack.start == "normal" or ball.norm == "L2" else None
    if run.attack.start == "normal":
        assert normal is not None
        return ball.x + NORMAL_START * normal
    return ball.uniform_start(run.random.uniform("attack/uniform", ball.x), normal)


def maximise(forward: Forward, ball: Ball, start: Tensor, objective: Objective, steps: int, step_size: float) -> Tensor:
    """``steps`` projected steps up ``objective(forward(x))`` from ``start``: detached (B, C, H, W), in ball and box.

    The sum over the batch, never its mean, is differentiated: a mean loses small gradients in low precision.
    """
    point = start.detach().clone()
    for _ in range(steps):
        point.requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(forward(point)).sum(), point)
        point = ball.climb(point.detach(), gradient, step_size)
    return ball.project(point)


class PGDAttacker:
    """PGD on the cross-entropy, with the steps, step size and start of ``run.attack``."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        ball = Ball(batch.x, self.run.threat)
        attack = self.run.attack

        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, batch.y, reduction="none")  # (B,)

        start = random_start(self.run, ball)
        return Attacked(maximise(forward, ball, start, cross_entropy, attack.steps, attack.step(self.run.threat)))


class NoAttacker:
    """Hands the clean images through: standard training."""

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        return Attacked(batch.x)
