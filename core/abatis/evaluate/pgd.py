"""Projected gradient ascent that remembers its path: a point is broken if any iterate fools the network."""

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
from abatis.evaluate.isolation import judging
from abatis.evaluate.judge import Attack, Judge, Progress, Split, right

STEP_SHARE = 0.25  # step size as a share of the radius
Objective = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K) and labels (B,) to what the attack raises, (B,)."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(B, K), (B,) -> (B,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The strongest rival's logit over the true one's, positive where it fools: (B, K), (B,) -> (B,)."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - true


def pgd_verdicts(
    module: nn.Module,
    split: Split,
    threat: Threat,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
    objective: Objective = cross_entropy,
) -> tuple[Tensor, Tensor]:
    """Which points are classified correctly, and which still are after PGD: (n,) bool on the CPU each.

    Raises DataError, UsageError, NotFiniteError or OutOfMemoryError.
    """
    with judging(module) as net:
        judge = Judge(net, split, threat, batch_size, progress)
        clean = judge.clean().correct
        judge.tune()
        return clean, judge.attacked(
            f"PGD-{steps}", pgd(net, threat, steps, seed, objective), clean
        ).robust


def pgd(
    forward: Forward,
    threat: Threat,
    steps: int,
    seed: int,
    objective: Objective = cross_entropy,
    starts: range = range(1),
) -> Attack:
    """PGD on an objective from uniform starts, keyed by number and the point's own index; a fooled point starts no more."""

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        found, fooled = batch.x.clone(), torch.zeros_like(batch.y, dtype=torch.bool)
        for start in starts:
            rows = (~fooled).nonzero().flatten()
            if not len(rows):
                break
            left = Batch(batch.x[rows], batch.y[rows], batch.index[rows])
            point = random_start(left, threat, seed, start)
            found[rows], fooled[rows] = _climb(forward, left, threat, steps, objective, point)
        return found, fooled

    return attack


def random_start(batch: Batch, threat: Threat, seed: int, start: int = 0) -> Tensor:
    """A random point of every ball, (B, C, H, W), whatever the batch."""
    suffix = f"/{start}" if start else ""
    uniform = per_sample("uniform", seed, f"evaluate/uniform{suffix}", batch.index, batch.x)
    normal = (
        per_sample("normal", seed, f"evaluate/normal{suffix}", batch.index, batch.x)
        if threat.norm == "L2"
        else None
    )
    return Ball(batch.x, threat).uniform_start(uniform, normal)


def _climb(
    forward: Forward, batch: Batch, threat: Threat, steps: int, objective: Objective, point: Tensor
) -> tuple[Tensor, Tensor]:
    """The first iterate that fools, else the one of highest loss, (B, C, H, W); and which points are fooled, (B,)."""
    ball = Ball(batch.x, threat)
    found = point.clone()
    highest = batch.x.new_full((len(batch),), -torch.inf)
    fooled = torch.zeros_like(batch.y, dtype=torch.bool)
    rows = torch.arange(len(batch), device=batch.x.device)  # the points that still climb
    for step in range(steps + 1):
        logits, loss, gradient = ascent(forward, point, batch.y[rows], objective, step < steps)
        standing = right(logits, batch.y[rows])
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


def ascent(
    forward: Forward, point: Tensor, y: Tensor, objective: Objective, gradient_wanted: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, K), objective (B,) and its gradient (B, C, H, W), which is zero where it is not wanted; all detached."""
    point = point.detach().requires_grad_(gradient_wanted)
    with torch.set_grad_enabled(gradient_wanted):
        logits = forward(point)
        loss = objective(logits, y)
        total = loss.sum()
    if not gradient_wanted:
        return logits, loss, torch.zeros_like(point)
    if not total.requires_grad:
        raise UsageError(
            "no gradient of the model's outputs reaches the image",
            where="evaluation, PGD",
            fix="remove detach() and no_grad() from the model's forward",
        )
    (gradient,) = torch.autograd.grad(total, point)
    return logits.detach(), loss.detach(), gradient
