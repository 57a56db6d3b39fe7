"""The attacks that the diagnostics need besides PGD, each a callable for :meth:`Judge.attacked`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.api.context import Forward
from abatis.api.randomness import per_sample
from abatis.api.threat import Threat
from abatis.evaluate.fewer_queries import skip_known
from abatis.evaluate.judge import Attack, right
from abatis.evaluate.pgd import STEP_SHARE, Objective, ascent, cross_entropy, random_start

DRAWS = 100  # uniform ones, and as many corners
AT_ONCE = 5  # draws of noise held in memory
UNFINISHED, LAST = (
    0.05,
    10,
)  # share of its whole rise that the loss still rose by, over so many values
Look = tuple[Tensor, Tensor]  # images (B, C, H, W) and their logits (B, K)


def path(
    forward: Forward,
    batch: Batch,
    threat: Threat,
    objective: Objective,
    start: Tensor,
    steps: int,
    step: float,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Every iterate of projected ascent, none of which ends it: images (B, C, H, W), logits (B, K), objective (B,)."""
    ball, point = Ball(batch.x, threat), start
    for number in range(steps + 1):
        logits, loss, gradient = ascent(forward, point, batch.y, objective, number < steps)
        yield point, logits, loss
        point = ball.climb(point.clone(), gradient, step)


def first_fooling(batch: Batch, looks: Iterable[Look]) -> tuple[Tensor, Tensor]:
    """The first image of each point that fools, (B, C, H, W), and which points have one, (B,)."""
    found, fooled = batch.x.clone(), torch.zeros_like(batch.y, dtype=torch.bool)
    for point, logits in looks:
        new = ~fooled & ~right(logits, batch.y)
        found[new] = point[new]
        fooled |= new
        if fooled.all():
            break
    return found, fooled


def single_step(forward: Forward, threat: Threat) -> Attack:
    """FGSM (Goodfellow et al., ICLR 2015): one step of eps from the clean image."""

    def attack(batch: Batch) -> Look:
        *_, (point, logits, _) = path(forward, batch, threat, cross_entropy, batch.x, 1, threat.eps)
        return point, ~right(logits, batch.y)

    return attack


def traced(
    forward: Forward, threat: Threat, steps: int, seed: int, trace: dict[int, tuple[bool, bool]]
) -> Attack:
    """PGD on the cross-entropy that tells of each point, by its index: did the loss never rise, was it still rising at the end?

    "Still rising": the highest loss so far, scaled to [0, 1], moved by more than 0.05 over its last 10 values (indicators of
    attack failure, Pintor et al., NeurIPS 2022). A point that was fooled is at its end.
    """

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        losses: list[Tensor] = []

        def looks() -> Iterator[Look]:
            start = random_start(batch, threat, seed)
            for point, logits, loss in path(
                forward, batch, threat, cross_entropy, start, steps, STEP_SHARE * threat.eps
            ):
                losses.append(loss)
                yield point, logits

        found, fooled = first_fooling(batch, looks())
        highest = torch.stack(losses, 1).cummax(1).values  # (B, steps + 1)
        rise, late = (
            highest[:, -1] - highest[:, 0],
            highest[:, -1] - highest[:, -LAST:][:, 0],
        )  # (B,)
        flags = zip(
            (rise <= 0).tolist(), (~fooled & (late > UNFINISHED * rise)).tolist(), strict=True
        )
        trace.update(zip(batch.index.tolist(), flags, strict=True))
        return found, fooled

    return attack


def transferred(
    forward: Forward, twin: Forward, threat: Threat, steps: int, seed: int, objective: Objective
) -> Attack:
    """PGD on another network; the one that is judged looks at every iterate."""

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        start = random_start(batch, threat, seed)
        iterates = path(twin, batch, threat, objective, start, steps, STEP_SHARE * threat.eps)
        return first_fooling(
            batch, ((point, logits_of(forward, point)) for point, _, _ in iterates)
        )

    return attack


def random_noise(forward: Forward, threat: Threat, seed: int) -> Attack:
    """Uniform points of the ball and, as many, its corners (Linf) or points of its surface (L2), keyed by the point's index."""

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        return first_fooling(
            batch, ((point, logits_of(forward, point)) for point in _noise(batch, threat, seed))
        )

    return attack


def _noise(batch: Batch, threat: Threat, seed: int) -> Iterator[Tensor]:
    ball, like = Ball(batch.x, threat), batch.x[:, None].expand(-1, AT_ONCE, -1, -1, -1)
    for first in range(0, DRAWS, AT_ONCE):
        uniform = per_sample(
            "uniform", seed, f"masking/uniform/{first}", batch.index, like
        )  # (B, AT_ONCE, C, H, W)
        normal = per_sample("normal", seed, f"masking/normal/{first}", batch.index, like)
        for draw in range(AT_ONCE):
            yield ball.uniform_start(uniform[:, draw], normal[:, draw])
            yield ball.climb(batch.x.clone(), normal[:, draw], threat.eps)


def square(forward: Forward, threat: Threat, queries: int, seed: int, steady: bool) -> Attack:
    """Square (Andriushchenko et al., ECCV 2020) through its authors' code; its draws depend on the batch.

    steady: is an answer of the network final?
    """

    def copied(x: Tensor) -> Tensor:
        return forward(x).clone()  # the authors write on the logits

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        foreign = SquareAttack(
            copied,
            norm=threat.norm,
            n_queries=queries,
            eps=threat.eps,
            seed=seed,
            device=batch.x.device,
        )
        if steady:
            skip_known(foreign)
        with torch.no_grad():
            adversarial = foreign.perturb(batch.x.contiguous(), batch.y)
        return adversarial, ~right(logits_of(forward, adversarial), batch.y)

    return attack


def logits_of(forward: Forward, x: Tensor) -> Tensor:
    """(B, K), without a graph."""
    with torch.no_grad():
        return forward(x)
