"""The attacks that the diagnostics need besides PGD."""

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
from abatis.evaluate.fewer_queries import make_queries
from abatis.evaluate.judge import Attack, find_correct
from abatis.evaluate.pgd import (
    STEP_SHARE,
    Objective,
    cross_entropy,
    differentiate,
    draw_start,
)
from abatis.evaluate.pyautoattack_messages import is_tested
from abatis.evaluate.square import replace_search

DRAWS = 100  # uniform points, and as many corners
AT_ONCE = 5  # draws of noise that are in memory at a time
UNFINISHED = 0.05  # an attack is unfinished if the loss made this share of its whole rise ...
LAST = 10  # ... over so many of its last values
Look = tuple[Tensor, Tensor]  # images (B, C, H, W) and their logits (B, K)


def walk_path(
    forward: Forward,
    batch: Batch,
    threat: Threat,
    objective: Objective,
    start: Tensor,
    steps: int,
    step: float,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield every iterate of projected gradient ascent; no point leaves once it is fooled.

    Each is images (B, C, H, W), logits (B, K) and objective (B,).
    """
    ball, point = Ball(batch.x, threat), start
    for number in range(steps + 1):
        logits, loss, gradient = differentiate(forward, point, batch.y, objective, number < steps)
        yield point, logits, loss
        point = ball.climb(point.clone(), gradient, step)


def find_first_fooling(batch: Batch, looks: Iterable[Look]) -> tuple[Tensor, Tensor]:
    """Return each point's first image that fools, (B, C, H, W), and which points have one, (B,)."""
    found, fooled = batch.x.clone(), torch.zeros_like(batch.y, dtype=torch.bool)
    for point, logits in looks:
        new = ~fooled & ~find_correct(logits, batch.y)
        found[new] = point[new]
        fooled |= new
        if fooled.all():
            break
    return found, fooled


def make_single_step(forward: Forward, threat: Threat) -> Attack:
    """Return FGSM (Goodfellow et al., ICLR 2015): one step of eps from the clean image."""

    def attack(batch: Batch) -> Look:
        *_, (point, logits, _) = walk_path(
            forward, batch, threat, cross_entropy, batch.x, 1, threat.eps
        )
        return point, ~find_correct(logits, batch.y)

    return attack


def make_traced_pgd(
    forward: Forward, threat: Threat, steps: int, seed: int, trace: dict[int, tuple[bool, bool]]
) -> Attack:
    """Return PGD on the cross-entropy that also records how the loss of each point developed.

    Into ``trace`` it writes, by the point's index: did the loss never rise, and was it still
    rising at the end? It was if the highest loss so far, scaled to [0, 1], moved by more than
    0.05 over its last 10 values (indicators of attack failure, Pintor et al., NeurIPS 2022). The
    attack on a point that was fooled is finished.
    """

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        losses: list[Tensor] = []

        def looks() -> Iterator[Look]:
            start = draw_start(batch, threat, seed)
            for point, logits, loss in walk_path(
                forward, batch, threat, cross_entropy, start, steps, STEP_SHARE * threat.eps
            ):
                losses.append(loss)
                yield point, logits

        found, fooled = find_first_fooling(batch, looks())
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


def make_transfer(
    forward: Forward, twin: Forward, threat: Threat, steps: int, seed: int, objective: Objective
) -> Attack:
    """Return PGD on another network, ``twin``; the judged one classifies every iterate."""

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        start = draw_start(batch, threat, seed)
        iterates = walk_path(twin, batch, threat, objective, start, steps, STEP_SHARE * threat.eps)
        return find_first_fooling(
            batch, ((point, compute_logits(forward, point)) for point, _, _ in iterates)
        )

    return attack


def make_random_noise(forward: Forward, threat: Threat, seed: int) -> Attack:
    """Return an attack by random points of the ball: DRAWS uniform ones, and as many at its edge.

    Those are corners in Linf and points of the sphere in L2. The draws depend on the seed and the
    point's index, not on the batch.
    """

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        return find_first_fooling(
            batch,
            ((point, compute_logits(forward, point)) for point in _draw_noise(batch, threat, seed)),
        )

    return attack


def _draw_noise(batch: Batch, threat: Threat, seed: int) -> Iterator[Tensor]:
    ball, like = Ball(batch.x, threat), batch.x[:, None].expand(-1, AT_ONCE, -1, -1, -1)
    for first in range(0, DRAWS, AT_ONCE):
        uniform = per_sample(
            "uniform", seed, f"masking/uniform/{first}", batch.index, like
        )  # (B, AT_ONCE, C, H, W)
        normal = per_sample("normal", seed, f"masking/normal/{first}", batch.index, like)
        for draw in range(AT_ONCE):
            yield ball.uniform_start(uniform[:, draw], normal[:, draw])
            yield ball.climb(batch.x.clone(), normal[:, draw], threat.eps)


def make_square(forward: Forward, threat: Threat, queries: int, seed: int, steady: bool) -> Attack:
    """Return Square (Andriushchenko et al., ECCV 2020) by pyautoattack.

    Its random draws depend on the batch. ``steady``: does the network always give the same
    logits for an image? Then it searches with fewer queries.
    """

    def copy_logits(x: Tensor) -> Tensor:
        return forward(x).clone()  # the package overwrites the logits

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        foreign = SquareAttack(
            copy_logits,
            norm=threat.norm,
            n_queries=queries,
            eps=threat.eps,
            seed=seed,
            device=batch.x.device,
        )
        if steady and is_tested():
            replace_search(foreign, make_queries(forward))
        with torch.no_grad():
            adversarial = foreign.perturb(batch.x.contiguous(), batch.y)
        return adversarial, ~find_correct(compute_logits(forward, adversarial), batch.y)

    return attack


def compute_logits(forward: Forward, x: Tensor) -> Tensor:
    """Return (B, K), without a graph."""
    with torch.no_grad():
        return forward(x)
