"""Auto-PGD on the cross-entropy (Croce and Hein, ICML 2020, Algorithm 1), for training.

    z_k     = P(x_k + eta_k d_k)
    x_{k+1} = P(x_k + a (z_k - x_k) + (1 - a) (x_k - x_{k-1})),   a = 0.75, in the first step 1

d: the direction of steepest ascent in the norm; P: projection onto ball and box; eta_0 = 2 eps. At
a checkpoint, eta of a sample is halved if its loss rose in less than 75 % of the steps since the
last checkpoint, or if eta was not halved there and its best loss has not improved since; it then
continues from its best point. The result of a sample is its best point.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis.api.ball import Ball, column
from abatis.api.batch import Attacked, Batch
from abatis.api.context import Forward
from abatis.api.run import Run
from abatis.train.builtin.pgd import describe_attack, random_start

FIRST_STEP = 2.0  # times eps
INERTIA = 0.75  # the a above
RISING = 0.75  # share of steps that must raise the loss


def checkpoints(steps: int) -> set[int]:
    """After how many steps eta may be halved, in an attack of so many.

    The first interval is 22 % of the steps; each further one is shorter by 3 %, down to 6 %.
    """
    length, shrink, least = (max(1, int(share * steps)) for share in (0.22, 0.03, 0.06))
    found, at = set(), length
    while at < steps:
        found.add(at)
        length = max(length - shrink, least)
        at += length
    return found


class APGDAttacker:
    """Auto-PGD with the steps and the start of ``run.attack``; it chooses its own step sizes."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.options = describe_attack(run) | {"step_size": "its own"}

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
                x = search.halve(x)
        return Attacked(search.best, {"steps_correct": search.correct})


class Search:
    """What Auto-PGD remembers of every sample: its best point, and what decides on its step size.

    Attributes:
        length: The step size eta, (B,).
        gradient: At the point looked at last, (B, C, H, W).
        best: The points with the largest loss, (B, C, H, W).
        correct: How many points from which a step was made were classified as labelled, (B,) int64.
    """

    def __init__(self, forward: Forward, batch: Batch, length: float) -> None:
        self.forward = forward
        self.batch = batch
        self.length = torch.full_like(batch.x[:, 0, 0, 0], length)
        self.best = self.gradient = self._best_gradient = batch.x
        self._best = self._last = torch.full_like(self.length, -torch.inf)  # losses, (B,) each
        self._halved = torch.ones_like(batch.y, dtype=torch.bool)  # at the last checkpoint, (B,)
        self.correct = torch.zeros_like(batch.y)
        self.mark()

    def mark(self) -> None:
        """Begin the interval up to the next checkpoint."""
        self._best_at_mark = self._best
        self._rises = torch.zeros_like(self.correct)
        self._steps = 0

    def look(self, x: Tensor, onward: bool) -> None:
        """Take in the loss at x, (B, C, H, W), and the gradient there if another step follows."""
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
        self._best = torch.where(better, losses, self._best)
        self._rises = self._rises + (losses > self._last)
        self._last = losses
        self._steps += 1

    def halve(self, x: Tensor) -> Tensor:
        """At a checkpoint, halve the step size of the samples that need it.

        Returns:
            Where each sample continues: at x or at its best point, (B, C, H, W).
        """
        rare = self._rises < RISING * self._steps
        stuck = ~self._halved & (self._best == self._best_at_mark)
        halve = rare | stuck  # (B,)
        self.length = torch.where(halve, self.length / 2, self.length)
        self.gradient = torch.where(column(halve, x), self._best_gradient, self.gradient)
        self._halved = halve
        self.mark()
        return torch.where(column(halve, x), self.best, x)
