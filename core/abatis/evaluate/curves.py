"""Accuracy as a function of the attack's radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from abatis.evaluate.judge import Judge, compute_share
from abatis.evaluate.pgd import cross_entropy, make_pgd, margin

STEPS = 20


@dataclass(frozen=True)
class Curve:
    """Accuracies at several radii.

    Args:
        norm: of the radii.
        eps: the radii, in pixel units of [0, 1].
        accuracy: the share of points still classified correctly, for each radius.
        right: which points these are, (n,) bool on the CPU, for each radius.
    """

    norm: str
    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    right: tuple[Tensor, ...]


def measure_curve(
    judge: Judge,
    correct: Tensor,
    eps: Sequence[float],
    seed: int,
    known: Mapping[float, Tensor] | None = None,
) -> Curve:
    """Attack at several radii with PGD-20, on the cross-entropy and then on the margin.

    Each radius is attacked independently of the others, so that a curve that rises shows it.

    Args:
        judge: its threat's norm is used.
        correct: (n,) bool, correct without an attack.
        eps: the radii.
        seed: of the attacks.
        known: results of the same attacks at some of the radii, (n,) bool.

    Raises:
        OutOfMemoryError: the device has no memory for a single image.
    """
    found = {**(known or {}), 0.0: correct}
    right = tuple(
        found[radius] if radius in found else _attack_at(judge, radius, correct, seed)
        for radius in eps
    )
    accuracy = tuple(compute_share(flags) for flags in right)
    return Curve(judge.threat.norm, tuple(eps), accuracy, right)


def _attack_at(judge: Judge, radius: float, standing: Tensor, seed: int) -> Tensor:
    threat = replace(judge.threat, eps=radius, text=f"{radius:g}")
    there = Judge(judge.net, judge.points, threat, judge.batch_size, judge.progress)
    for objective in (cross_entropy, margin):
        attack = make_pgd(judge.net, threat, STEPS, seed, objective)
        standing = there.run_attack(
            f"PGD-{STEPS}", attack, standing, f"PGD-{STEPS} at {radius:.3g}"
        ).robust
    return standing
