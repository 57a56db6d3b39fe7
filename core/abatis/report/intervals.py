"""Confidence intervals of counted shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)
"""The quantile of the normal distribution that gives intervals of 95 %: 1.95996..."""


def wilson_interval(count: float, of: int, z: float = Z) -> tuple[float, float]:
    """Return the score interval of a share (Wilson, 1927).

    For whole numbers it equals that of ``scipy.stats.binomtest``, which takes no others.

    Args:
        count: points that have a property; a broken number where it is a mean over draws.
        of: all points.
        z: quantile of the normal distribution.

    Returns:
        Both ends, in [0, 1]; (0, 1) where there are no points.
    """
    if not of:
        return 0.0, 1.0
    share, weight = count / of, z * z / of
    centre = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    low = (centre - half) / (1 + weight) if count > 0 else 0.0
    high = (centre + half) / (1 + weight) if count < of else 1.0
    return max(0.0, low), min(1.0, high)


def find_chance(per_class: Sequence[float]) -> float:
    """Return the accuracy of always answering the most common class.

    It is 1 / K where K classes are equally frequent, and more where they are not.

    Args:
        per_class: points of each class.
    """
    return max(per_class) / sum(per_class)
