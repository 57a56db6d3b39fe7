"""Scales of the axes of a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from abatis.report.words import LARGEST


@dataclass(frozen=True)
class Scale:
    """Maps values from low to high to places from start to end, in user units."""

    low: float
    high: float
    ticks: tuple[float, ...]
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def names(self, percent: bool) -> list[tuple[float, str]]:
        """The places and texts of the ticks."""
        return [
            (self(tick), f"{100 * tick:.6g} %" if percent else f"{tick:.6g}") for tick in self.ticks
        ]


def make_scale(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    outward: bool = False,
    percent: bool = False,
    count: int = 5,
) -> Scale:
    """A scale with about ``count`` steps of 1, 2 or 5; whole values get no fractions.

    With ``outward``, the scale ends on ticks.
    """
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    if high - low <= 1e-9 * largest or largest < 1 / LARGEST:
        pad = largest / 2 if largest > 1 / LARGEST else 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(
        factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= rough * (1 - 1e-9)
    )
    if not percent and all(value == floor(value) for value in values):
        step = max(step, 1.0)
    if outward:
        low, high = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    numbers = range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    return Scale(low, high, tuple(float(f"{number * step:.12g}") for number in numbers), start, end)


def add_zero(values: Sequence[float], percent: bool) -> list[float]:
    """The values, and the ends an honest axis has: 0 and 1 for percentages, 0 where it is near."""
    near = 0 <= min(values) < max(values) / 2
    return [*values, *([0.0, 1.0] if percent else [0.0] if near else [])]
