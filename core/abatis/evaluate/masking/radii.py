"""D19 and D20: does accuracy fall as the radius grows, down to nothing?"""

from __future__ import annotations

import math

from abatis.evaluate.curves import Curve
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking.record import Test, rated

GRID = (0, 0.25, 0.5, 1, 2, 4)  # multiples of eps
HUGE = (0.5, 1)  # multiples of the radius that holds the whole box


def _whole(judge: Judge) -> float:
    """The radius at which the ball holds all images in [0, 1]."""
    return (
        1.0
        if judge.threat.norm == "Linf"
        else math.sqrt(next(iter(judge.split.eval_batches(1))).x.numel())
    )


def grid(judge: Judge) -> list[float]:
    """Where to measure, from 0 on; no radius goes beyond the whole box."""
    whole = _whole(judge)
    return sorted(
        {min(factor * judge.threat.eps, whole) for factor in GRID}
        | {factor * whole for factor in HUGE}
    )


def radius_tests(judge: Judge, curve: Curve, num_classes: int) -> list[Test]:
    """D19, on the multiples of eps, and D20, on the two huge radii."""
    whole, n = _whole(judge), len(judge.split)
    counts = dict(zip(curve.eps, (int(right.sum()) for right in curve.right), strict=True))
    near = [counts[min(factor * judge.threat.eps, whole)] for factor in GRID]
    rise = max(later - min(near[: place + 1]) for place, later in enumerate(near))
    left = [counts[factor * whole] for factor in HUGE]
    chance = 1 / num_classes
    return [
        rated(
            "D19",
            rise,
            n,
            f"from one radius to a larger one the accuracy rises by at most {rise} of {n} points",
        ),
        rated(
            "D20",
            max(left),
            n,
            f"{' and '.join(map(str, left))} of {n} points are right at the radii "
            f"{' and '.join(f'{factor * whole:.3g}' for factor in HUGE)}; chance is {chance:.2g}",
            (chance / 2, chance),
        ),
    ]
