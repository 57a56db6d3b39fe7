"""Auto-PGD on the cross-entropy as it is used in training (Croce and Hein, ICML 2020 and 2022).

    z_k     = P(x_k + eta_k d_k)
    x_{k+1} = P(x_k + a (z_k - x_k) + (1 - a) (x_k - x_{k-1})),   a = 0.75, in the first step 1

d: the direction of steepest ascent in the norm; P: projection onto ball and box; eta_0 = 2 eps. At
a checkpoint, eta of a sample is halved if its loss rose in at most 75 % of the steps since the
last checkpoint, or if eta was not halved there and its best loss has not improved since; it then
continues from its best point. The result of a sample is its best point. As in the released code,
the first step counts as one that raised the loss.

In L1, x_{k+1} = z_k and eta_0 = eps; d moves a share of the pixels, 5 % at first. At a checkpoint
that share becomes the share of the pixels in which the best point differs, divided by 1.5. If fewer
than 95 % of those at the last checkpoint differ, eta is eps again and the sample continues from its
best point; else eta is divided by 1.5, down to eps / 10 (Croce and Hein, ICML 2021).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis.api.ball import L1_TOP, Ball, column
from abatis.api.batch import Attacked, Batch
from abatis.api.context import Forward
from abatis.api.run import Run
from abatis.train.builtin.pgd import describe_attack, random_start

FIRST_STEP = 2.0  # times eps
INERTIA = 0.75  # the a above
RISING = 0.75  # share of steps that must raise the loss, or more
L1_INTERVAL = 0.04  # of the steps, between two checkpoints
L1_SHRINK = 1.5  # of the share of pixels, and of eta
L1_SPARSER = 0.95  # the share of changed pixels fell if it is below this share of the last one
L1_LEAST = 0.1  # times eps


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
        ball = Ball(batch.x, self.run.threat)
        start = random_start(self.run, ball)
        return auto_pgd(forward, ball, start, batch, self.run.attack.steps, self.run.ramp)


def auto_pgd(
    forward: Forward, ball: Ball, start: Tensor, batch: Batch, steps: int, ramp: float = 1.0
) -> Attacked:
    """Raise the cross-entropy by Auto-PGD; the result lies in ball and box.

    Args:
        forward: Images (B, C, H, W) in [0, 1] to logits (B, K).
        ball: The images and one radius around them.
        start: Where the first step begins, (B, C, H, W).
        batch: Gives the labels, soft ones where there are any.
        steps: How many gradient steps.
        ramp: Factor of all step sizes.

    Returns:
        The images of the largest loss, and in ``info``: ``steps_correct``, (B,) int64, how many
        points from which a step was made were classified as y; ``survived``, (B,) bool, whether
        all points were; ``loss``, (B,), the largest one.
    """
    x = before = ball.project(start.clone())
    search = Search(forward, batch, ball, ramp)
    search.look(x, onward=steps > 0)
    search.begin()
    for step in range(steps):
        z = ball.climb(x.clone(), search.gradient.clone(), search.length, search.top)
        if ball.norm == "L1":
            x = z
        else:
            share = INERTIA if step else 1.0
            x, before = ball.project(x + share * (z - x) + (1 - share) * (x - before)), x
        search.look(x, onward=step + 1 < steps)
        if ball.norm == "L1":
            if (step + 1) % max(1, int(L1_INTERVAL * steps)) == 0:
                x = search.sparsen(x)
        elif step + 1 in checkpoints(steps):
            x = search.halve(x)
    info = {"steps_correct": search.correct, "survived": search.survived, "loss": search.loss}
    return Attacked(search.best, info)


class Search:
    """What Auto-PGD remembers of every sample: its best point, and what decides on its step size.

    Attributes:
        length: The step size eta, (B,).
        top: In L1, the share of the pixels that a step moves, (B,).
        gradient: At the point looked at last, (B, C, H, W).
        best: The points with the largest loss, (B, C, H, W).
        loss: The largest loss, (B,).
        correct: How many points from which a step was made were classified as labelled, (B,) int64.
        survived: Were all points classified as labelled? (B,) bool.
    """

    def __init__(self, forward: Forward, batch: Batch, ball: Ball, ramp: float) -> None:
        self.forward = forward
        self.batch = batch
        self.x = ball.x
        self._unit = torch.full_like(batch.x[:, 0, 0, 0], ramp) * ball.eps  # (B,)
        self.length = self._unit * (1.0 if ball.norm == "L1" else FIRST_STEP)
        self.top = torch.full_like(self.length, L1_TOP)
        self._changed = torch.full_like(self.length, batch.x[0].numel())  # pixels, (B,)
        self.best = self.gradient = self._best_gradient = batch.x
        self.loss = torch.full_like(self.length, -torch.inf)
        self._last = self.loss
        self._halved = torch.ones_like(batch.y, dtype=torch.bool)  # at the last checkpoint, (B,)
        self.correct = torch.zeros_like(batch.y)
        self.survived = torch.ones_like(self._halved)
        self.mark()

    def begin(self) -> None:
        """Count from here on: the start itself raised nothing."""
        self._last = torch.zeros_like(
            self.loss
        )  # what the first step is compared with, as released
        self.mark()

    def mark(self) -> None:
        """Begin the interval up to the next checkpoint."""
        self._best_at_mark = self.loss
        self._rises = torch.zeros_like(self.correct)
        self._steps = 0

    def look(self, x: Tensor, onward: bool) -> None:
        """Take in the loss at x, (B, C, H, W), and the gradient there if another step follows."""
        with torch.set_grad_enabled(onward):
            point = x.detach().requires_grad_(onward)
            logits = self.forward(point)
            losses = F.cross_entropy(logits, self.batch.target, reduction="none")  # (B,)
        right = logits.detach().argmax(1) == self.batch.y
        self.survived = self.survived & right
        if onward:
            (self.gradient,) = torch.autograd.grad(losses.sum(), point)
            self.correct += right
        losses = losses.detach()
        better = losses > self.loss  # (B,)
        self.best = torch.where(column(better, x), x.detach(), self.best)
        self._best_gradient = torch.where(column(better, x), self.gradient, self._best_gradient)
        self.loss = torch.where(better, losses, self.loss)
        self._rises = self._rises + (losses > self._last)
        self._last = losses
        self._steps += 1

    def halve(self, x: Tensor) -> Tensor:
        """At a checkpoint, halve the step size of the samples that need it.

        Returns:
            Where each sample continues: at x or at its best point, (B, C, H, W).
        """
        rare = self._rises <= RISING * self._steps
        stuck = ~self._halved & (self.loss == self._best_at_mark)
        halve = rare | stuck  # (B,)
        self.length = torch.where(halve, self.length / 2, self.length)
        self._halved = halve
        self.mark()
        return self._go_back(halve, x)

    def sparsen(self, x: Tensor) -> Tensor:
        """At a checkpoint in L1, set the share of pixels and the step size of every sample.

        Returns:
            Where each sample continues: at x or at its best point, (B, C, H, W).
        """
        changed = (self.best != self.x).flatten(1).sum(1).to(self.length)  # (B,)
        sparser = changed / self._changed < L1_SPARSER
        self.top = changed / self.x[0].numel() / L1_SHRINK
        shorter = torch.maximum(self.length / L1_SHRINK, self._unit * L1_LEAST)
        self.length = torch.where(sparser, self._unit, shorter)
        self._changed = changed
        return self._go_back(sparser, x)

    def _go_back(self, back: Tensor, x: Tensor) -> Tensor:
        """The best points of some samples, with their gradients; x of the others."""
        self.gradient = torch.where(column(back, x), self._best_gradient, self.gradient)
        return torch.where(column(back, x), self.best, x)
