"""How sure a share of counted points is."""

from __future__ import annotations

import math


def wilson(count: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share (Wilson, 1927), 95 % at z = 1.96; (0, 1) where nothing was counted."""
    if not of:
        return 0.0, 1.0
    share, weight = count / of, z * z / of
    centre = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    return max(0.0, (centre - half) / (1 + weight)), min(1.0, (centre + half) / (1 + weight))
