"""What a margin costs: the functions R+ and R- of the formula in penalty.py, without lambda."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from abatis_amm import AmmConfig


def push(m: Tensor, config: AmmConfig) -> Tensor:
    """Return R+ / lambda, which falls with the margin: (R,) -> (R,)."""
    largest = config.clip / config.weight
    match config.shrinkage:
        case "exp":
            return (-config.c * m).exp().clamp(max=largest)
        case "invprop":
            return (1 / (1 + config.c * m)).clamp(max=largest)
        case "lin":
            return -config.c * m
        case "margin":
            return (config.c - m).clamp(min=0)


def pull(m: Tensor, config: AmmConfig) -> Tensor:
    """Return R- / lambda, which grows with the distance to the true class: (R,) -> (R,)."""
    largest = config.clip / config.weight
    match config.shrinkage:
        case "exp":  # clamped before exp as well: an infinite exp has a NaN gradient
            m = m.clamp(max=math.log(largest + 1) / config.d)
            return (config.d * m).exp().clamp(max=largest)
        case "invprop":
            return 1 / (1 - config.d * m.clamp(max=(1 - 1 / largest) / config.d))
        case "lin":
            return config.d * m
        case "margin":
            return config.c + m
