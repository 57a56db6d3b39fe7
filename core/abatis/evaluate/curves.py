"""Accuracy as the radius of the attack grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from abatis.evaluate.judge import Judge, share
from abatis.evaluate.pgd import cross_entropy, margin, pgd

STEPS = 20


@dataclass(frozen=True)
class Curve:
    """eps: the radii, in pixel units; accuracy: the fraction still right at each; right: (n,) bool on the CPU, for each."""

    norm: str
    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    right: tuple[Tensor, ...]


def accuracy_curve(
    judge: Judge,
    correct: Tensor,
    eps: Sequence[float],
    seed: int,
    known: Mapping[float, Tensor] | None = None,
) -> Curve:
    """What PGD-20 on the cross-entropy and on the margin leave standing together, at radii of the judge's own norm.

    correct: (n,) bool, right without an attack; known: what the same attacks left at some radii, (n,) bool.
    Every radius is attacked for itself: nothing makes the curve fall but the network. Raises OutOfMemoryError.
    """
    found = {**(known or {}), 0.0: correct}
    right = tuple(
        found[radius] if radius in found else _standing(judge, radius, correct, seed)
        for radius in eps
    )
    return Curve(judge.threat.norm, tuple(eps), tuple(share(flags) for flags in right), right)


def _standing(judge: Judge, radius: float, standing: Tensor, seed: int) -> Tensor:
    threat = replace(judge.threat, eps=radius, text=f"{radius:g}")
    there = Judge(judge.net, judge.split, threat, judge.batch_size, judge.progress)
    for objective in (cross_entropy, margin):
        attack = pgd(judge.net, threat, STEPS, seed, objective)
        standing = there.attacked(
            f"PGD-{STEPS}", attack, standing, f"PGD-{STEPS} at {radius:.3g}"
        ).robust
    return standing
