"""Projected gradient ascent inside a ball (Madry et al., ICLR 2018), and the attackers a run starts from."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.batch import Attacked, Batch
from abatis.api.context import Forward, Run

Objective = Callable[[Tensor], Tensor]
"""Logits (B, K) to the quantity the attack raises, (B,)."""

NORMAL_START = 1e-3  # standard deviation of the small normal start, in pixel units


def random_start(run: Run, ball: Ball) -> Tensor:
    """Where an attack begins, by ``run.attack.start``: (B, C, H, W).

    ``none`` is the image itself. The uniform start lies in ball and box. The small normal start is *not* clipped: published
    code takes its first gradient there as it is.
    """
    if run.attack.start == "none":
        return ball.x
    normal = (
        run.random.normal("attack/normal", ball.x)
        if run.attack.start == "normal" or ball.norm == "L2"
        else None
    )
    if run.attack.start == "normal":
        assert normal is not None
        return ball.x + NORMAL_START * normal
    return ball.uniform_start(run.random.uniform("attack/uniform", ball.x), normal)


def maximise(
    forward: Forward,
    ball: Ball,
    start: Tensor,
    y: Tensor,
    objective: Objective,
    steps: int,
    step_size: float,
) -> Attacked:
    """``steps`` projected steps up ``objective(forward(x))`` from ``start`` (B, C, H, W); the result lies in ball and box.

    ``info["steps_correct"]``, (B,) int64: how many of the iterates before a step were classified as y, (B,).
    The sum over the batch, never its mean, is differentiated: a mean loses small gradients in low precision.
    """
    point = start.detach().clone()
    correct = torch.zeros_like(y)
    for _ in range(steps):
        point.requires_grad_(True)
        logits = forward(point)
        (gradient,) = torch.autograd.grad(objective(logits).sum(), point)
        correct += logits.detach().argmax(1) == y
        point = ball.climb(point.detach(), gradient, step_size)
    return Attacked(ball.project(point), {"steps_correct": correct})


class PGDAttacker:
    """PGD on the cross-entropy to the labels, soft ones where there are any; steps, length and start from ``run.attack``."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        ball, attack = Ball(batch.x, self.run.threat), self.run.attack

        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, batch.target, reduction="none")  # (B,)

        start = random_start(self.run, ball)
        return maximise(
            forward, ball, start, batch.y, cross_entropy, attack.steps, self.run.step_size
        )


class NoAttacker:
    """Hands the clean images through: standard training."""

    def __init__(self, run: Run) -> None:
        pass

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        return Attacked(batch.x)
