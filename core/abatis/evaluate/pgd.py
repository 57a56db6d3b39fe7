"""Projected gradient descent (Madry et al., ICLR 2018); every iterate that fools counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.api.context import Forward
from abatis.api.randomness import per_sample
from abatis.api.threat import Threat
from abatis.errors import UsageError
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Attack, Judge, Points, Progress, find_correct

STEP_SHARE = 0.25  # step size as a share of the radius
Objective = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, K) and labels (B,) to what the attack maximises, (B,)."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(B, K), (B,) -> (B,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus the true one: (B, K), (B,) -> (B,).

    It is positive where the point is misclassified.
    """
    true = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - true


def judge_with_pgd(
    module: nn.Module,
    points: Points,
    threat: Threat,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
    objective: Objective = cross_entropy,
) -> tuple[Tensor, Tensor]:
    """Return which points are classified correctly, and which still are after PGD.

    Returns:
        (n,) bool on the CPU each.

    Raises:
        DataError: there are no images, or they are not in [0, 1].
        UsageError: the outputs are not one logit per class, or have no gradient.
        NotFiniteError: a logit of a clean image is NaN or infinite.
        OutOfMemoryError: the device has no memory for a single image.
    """
    with isolate(module) as net:
        judge = Judge(net, points, threat, batch_size, progress)
        clean = judge.classify_clean().correct
        judge.tune()
        attack = make_pgd(net, threat, steps, seed, objective)
        return clean, judge.run_attack(f"PGD-{steps}", attack, clean).robust


def make_pgd(
    forward: Forward,
    threat: Threat,
    steps: int,
    seed: int,
    objective: Objective = cross_entropy,
    starts: range = range(1),
    find_standing: Callable[[Tensor, Tensor], Tensor] = find_correct,
) -> Attack:
    """Return PGD from uniform random starts.

    Args:
        forward: the network.
        threat: norm and radius.
        steps: of each start.
        seed: with the number of the start and the point's index it decides the start.
        objective: what is maximised.
        starts: numbers of the starts. A point that one start has fooled is not started again.
        find_standing: tells by logits (B, K) and labels (B,) which points are not fooled, (B,).
    """

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        found, fooled = batch.x.clone(), torch.zeros_like(batch.y, dtype=torch.bool)
        for start in starts:
            rows = (~fooled).nonzero().flatten()
            if not len(rows):
                break
            left = Batch(batch.x[rows], batch.y[rows], batch.index[rows])
            point = draw_start(left, threat, seed, start)
            found[rows], fooled[rows] = _ascend(
                forward, left, threat, steps, objective, point, find_standing
            )
        return found, fooled

    return attack


def draw_start(batch: Batch, threat: Threat, seed: int, start: int = 0) -> Tensor:
    """Draw a point of every image's ball: (B, C, H, W). It does not depend on the batch."""
    suffix = f"/{start}" if start else ""
    uniform = per_sample("uniform", seed, f"evaluate/uniform{suffix}", batch.index, batch.x)
    normal = (
        per_sample("normal", seed, f"evaluate/normal{suffix}", batch.index, batch.x)
        if threat.norm != "Linf"
        else None
    )
    return Ball(batch.x, threat).uniform_start(uniform, normal)


def _ascend(
    forward: Forward,
    batch: Batch,
    threat: Threat,
    steps: int,
    objective: Objective,
    point: Tensor,
    find_standing: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the first iterate that fools, else the one of highest loss, and who was fooled.

    The images are (B, C, H, W), the flags (B,) bool.
    """
    ball = Ball(batch.x, threat)
    found = point.clone()
    highest = batch.x.new_full((len(batch),), -torch.inf)
    fooled = torch.zeros_like(batch.y, dtype=torch.bool)
    rows = torch.arange(len(batch), device=batch.x.device)  # the points that are not fooled yet
    for step in range(steps + 1):
        wanted = step < steps
        logits, loss, gradient = differentiate(forward, point, batch.y[rows], objective, wanted)
        standing = find_standing(logits, batch.y[rows])
        better = ~standing | (loss > highest[rows])
        found[rows[better]], highest[rows[better]] = point[better], loss[better]
        if not standing.all():
            fooled[rows[~standing]] = True
            rows, point, gradient = rows[standing], point[standing], gradient[standing]
            ball = Ball(batch.x[rows], threat)
        if not len(rows) or step == steps:
            break
        point = ball.climb(point, gradient, STEP_SHARE * threat.eps)
    return found, fooled


def differentiate(
    forward: Forward, point: Tensor, y: Tensor, objective: Objective, gradient_wanted: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits, the objective and its gradient at some images, all detached.

    Returns:
        (B, K), (B,) and (B, C, H, W). The gradient is zero where it is not wanted.

    Raises:
        UsageError: the outputs do not depend on the images in a way that autograd can follow.
    """
    point = point.detach().requires_grad_(gradient_wanted)
    with torch.set_grad_enabled(gradient_wanted):
        logits = forward(point)
        loss = objective(logits, y)
        summed = loss.sum()
    if not gradient_wanted:
        return logits, loss, torch.zeros_like(point)
    if not summed.requires_grad:
        raise UsageError(
            "the model's outputs have no gradient with respect to the image",
            where="evaluation, PGD",
            fix="remove detach() and no_grad() from the model's forward",
        )
    (gradient,) = torch.autograd.grad(summed, point)
    return logits.detach(), loss.detach(), gradient
