"""Auto-PGD on the cross-entropy (Croce and Hein, ICML 2020) for training: few steps, long at first, halved by sample.

    z_k     = P(x_k + eta_k d_k)
    x_{k+1} = P(x_k + a (z_k - x_k) + (1 - a) (x_k - x_{k-1})),   a = 0.75, in the first step 1

d: the direction of steepest ascent in the norm; P: projection onto ball and box; eta_0 = 2 eps. At the checkpoints a sample
whose loss rose in less than 75 % of the steps since the last one, or that has found nothing better since then with the same
eta, has eta halved and goes on from its best point. The best point of a sample is its result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis.api.ball import Ball, column
from abatis.api.batch import Attacked, Batch
from abatis.api.context import Forward, Run
from abatis.train.builtin.pgd import random_start

FIRST_STEP = 2.0  # times eps
INERTIA = 0.75  # the a above
RISING = 0.75  # share of steps that must raise the loss


def checkpoints(steps: int) -> set[int]:
    """After how many steps eta may be halved: the first 22 % of them, then shares that shrink by 3 % down to 6 %."""
    length, shrink, least = (max(1, int(share * steps)) for share in (0.22, 0.03, 0.06))
    found, at = set(), length
    while at < steps:
        found.add(at)
        length = max(length - shrink, least)
        at += length
    return found


class APGDAttacker:
    """Auto-PGD with the steps and the start of ``run.attack``; it chooses the lengths of its steps itself."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        ball, attack = Ball(batch.x, self.run.threat), self.run.attack
        x = before = ball.project(random_start(self.run, ball).clone())
        search = Search(forward, batch, FIRST_STEP * self.run.ramp * self.run.threat.eps)
        search.look(x, onward=attack.steps > 0)
        search.mark()
        for step in range(attack.steps):
            z = ball.climb(x.clone(), search.gradient.clone(), search.length)
            share = INERTIA if step else 1.0
            x, before = ball.project(x + share * (z - x) + (1 - share) * (x - before)), x
            search.look(x, onward=step + 1 < attack.steps)
            if step + 1 in checkpoints(attack.steps):
                x = search.halved(x)
        return Attacked(search.best, {"steps_correct": search.correct})


class Search:
    """What Auto-PGD remembers of every sample: its best point, and what decides on the length of its steps.

    length: (B,), eta; gradient: (B, C, H, W), at the point looked at last; best: (B, C, H, W); correct: (B,) int64, how many
    points from which a step was made were classified as labelled.
    """

    def __init__(self, forward: Forward, batch: Batch, length: float) -> None:
        self.forward, self.batch = forward, batch
        self.length = torch.full_like(batch.x[:, 0, 0, 0], length)
        self.best = self.gradient = self._best_gradient = batch.x
        self._best = self._last = torch.full_like(self.length, -torch.inf)  # losses, (B,) each
        self._halved = torch.ones_like(batch.y, dtype=torch.bool)  # at the last checkpoint, (B,)
        self.correct = torch.zeros_like(batch.y)
        self.mark()

    def mark(self) -> None:
        """Count from here on."""
        self._best_at_mark, self._rises, self._steps = self._best, torch.zeros_like(self.correct), 0

    def look(self, x: Tensor, onward: bool) -> None:
        """Take the loss at x, (B, C, H, W), and the gradient where another step follows."""
        with torch.set_grad_enabled(onward):
            point = x.detach().requires_grad_(onward)
            logits = self.forward(point)
            losses = F.cross_entropy(logits, self.batch.target, reduction="none")  # (B,)
        if onward:
            (self.gradient,) = torch.autograd.grad(losses.sum(), point)
            self.correct += logits.detach().argmax(1) == self.batch.y
        losses = losses.detach()
        better = losses > self._best  # (B,)
        self.best = torch.where(column(better, x), x.detach(), self.best)
        self._best_gradient = torch.where(column(better, x), self.gradient, self._best_gradient)
        self._best, self._rises = (
            torch.where(better, losses, self._best),
            self._rises + (losses > self._last),
        )
        self._last, self._steps = losses, self._steps + 1

    def halved(self, x: Tensor) -> Tensor:
        """At a checkpoint: x or the best point, (B, C, H, W), to go on from with ``length`` and ``gradient``."""
        rare = self._rises < RISING * self._steps
        stuck = ~self._halved & (self._best == self._best_at_mark)
        halve = rare | stuck  # (B,)
        self.length = torch.where(halve, self.length / 2, self.length)
        self.gradient = torch.where(column(halve, x), self._best_gradient, self.gradient)
        self._halved = halve
        self.mark()
        return torch.where(column(halve, x), self.best, x)
