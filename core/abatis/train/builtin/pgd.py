"""Projected gradient ascent inside a ball (Madry et al., ICLR 2018), the default attack.

    x_{k+1} = P(x_k + step_size * d_k)

d: the direction of steepest ascent of the loss in the norm; P: projection onto ball and box.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.batch import Attacked, Batch
from abatis.api.context import Forward
from abatis.api.run import Run

Objective = Callable[[Tensor], Tensor]
"""Logits (B, K) to the quantity the attack raises, (B,)."""

NORMAL_START = 1e-3  # standard deviation of the small normal start, in pixel units


def random_start(run: Run, ball: Ball) -> Tensor:
    """The images at which an attack begins, by ``run.attack.start``: (B, C, H, W).

    ``none`` is the image itself. The uniform start lies in ball and box. The small normal start is
    *not* clipped: published code takes its first gradient there as it is.
    """
    start = run.attack.start
    if start == "none":
        return ball.x
    if run.given_start is not None:
        point = ball.x + run.given_start()
        return point if start == "normal" else point.clamp_(0, 1)
    if start == "normal":
        return ball.x + NORMAL_START * run.random.normal("attack/normal", ball.x)
    # L2 takes a direction, and a radius from the uniform draw
    direction = run.random.normal("attack/normal", ball.x) if ball.norm != "Linf" else None
    return ball.uniform_start(run.random.uniform("attack/uniform", ball.x), direction)


def maximise(
    forward: Forward,
    ball: Ball,
    start: Tensor,
    y: Tensor,
    objective: Objective,
    steps: int,
    step_size: float,
) -> Attacked:
    """Climb ``objective(forward(x))`` by projected gradient steps; the result lies in ball and box.

    The sum over the batch, never its mean, is differentiated: a mean loses small gradients in low
    precision.

    Args:
        forward: Images (B, C, H, W) in [0, 1] to logits (B, K).
        ball: The images and the radius around them.
        start: Where the first step begins, (B, C, H, W).
        y: Labels, (B,).
        objective: Logits (B, K) to the quantity to raise, (B,).
        steps: How many gradient steps.
        step_size: Length of a step, in pixel units.

    Returns:
        The images, and ``info["steps_correct"]``, (B,) int64: before how many of the steps a sample
        was classified as y.
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


def describe_attack(run: Run) -> dict[str, object]:
    """The options of the built-in attacks, as the plan shows them."""
    options: dict[str, object] = run.attack.model_dump(exclude={"precision"})  # the engine's row
    step_size = f"{run.attack.step(run.threat):.6g}"
    return options | {"step_size": step_size, "threat": str(run.threat)}


class PGDAttacker:
    """PGD on the cross-entropy to the labels, soft ones where there are any.

    Steps, their length and the start are those of ``run.attack``.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.options = describe_attack(run)

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        ball, attack = Ball(batch.x, self.run.threat), self.run.attack

        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, batch.target, reduction="none")  # (B,)

        start = random_start(self.run, ball)
        return maximise(
            forward, ball, start, batch.y, cross_entropy, attack.steps, self.run.step_size
        )
