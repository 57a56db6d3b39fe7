"""D19 and D20: does the accuracy fall with the radius, down to zero?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from abatis.evaluate.curves import Curve
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking.record import Outcome, grade_share

GRID = (0, 0.25, 0.5, 1, 2, 4)  # multiples of eps
HUGE = (0.5, 1)  # multiples of the radius that holds the whole box


def _get_whole_radius(judge: Judge) -> float:
    """Return the radius at which the ball holds all images in [0, 1]."""
    return (
        1.0
        if judge.threat.norm == "Linf"
        else math.sqrt(next(iter(judge.points.eval_batches(1))).x.numel())
    )


def list_radii(judge: Judge) -> list[float]:
    """Return the radii to measure at, from 0 on, none larger than needed for the whole box."""
    whole = _get_whole_radius(judge)
    return sorted(
        {min(factor * judge.threat.eps, whole) for factor in GRID}
        | {factor * whole for factor in HUGE}
    )


def list_two_radii(judge: Judge) -> list[float]:
    """Return the radii of a cheap curve: 0, that of the threat, and that of the whole box."""
    whole = _get_whole_radius(judge)
    return sorted({0.0, min(judge.threat.eps, whole), whole})


def grade_whole_box(judge: Judge, curve: Curve, num_classes: int) -> Outcome:
    """Grade D20 on the largest radius alone."""
    return _grade_huge(judge, curve, num_classes, (1,))


def _grade_huge(judge: Judge, curve: Curve, num_classes: int, factors: Sequence[float]) -> Outcome:
    whole, n = _get_whole_radius(judge), len(judge.points)
    counts = dict(zip(curve.eps, (int(right.sum()) for right in curve.right), strict=True))
    left = [counts[factor * whole] for factor in factors]
    radii = " and ".join(f"{factor * whole:.3g}" for factor in factors)
    chance = 1 / num_classes
    return grade_share(
        "D20",
        max(left),
        n,
        f"{' and '.join(map(str, left))} of {n} points are classified correctly at the "
        f"{'radii' if len(left) > 1 else 'radius'} {radii}; chance is {chance:.2g}",
        (chance / 2, chance),
    )


def grade_radii(judge: Judge, curve: Curve, num_classes: int) -> list[Outcome]:
    """Grade D19, on the multiples of eps, and D20, on the two huge radii."""
    whole, n = _get_whole_radius(judge), len(judge.points)
    counts = dict(zip(curve.eps, (int(right.sum()) for right in curve.right), strict=True))
    near = [counts[min(factor * judge.threat.eps, whole)] for factor in GRID]
    rise = max(later - min(near[: place + 1]) for place, later in enumerate(near))
    return [
        grade_share(
            "D19",
            rise,
            n,
            f"from one radius to a larger one the accuracy rises by at most {rise} of {n} points",
        ),
        _grade_huge(judge, curve, num_classes, HUGE),
    ]
