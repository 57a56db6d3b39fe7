"""Pixels are in [0, 1]: a rounding error beyond is clamped, all else is refused with its number."""

from __future__ import annotations

import math

from torch import Tensor

from abatis.data.info import join_notes
from abatis.errors import DataError

ROUNDING = 1e-5  # how far beyond [0, 1] arithmetic in float32 or float64 carries a pixel, at most
WHITE = 255  # of images of bytes
NORMALISED_MEAN = 0.5  # images with a mean that is closer to 0 look normalised
NORMALISED_STD = (0.3, 3.0)  # and their standard deviation lies in between


class Rounding:
    """How far pixels were beyond [0, 1] by rounding; says so once."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.said = False

    def clamp(self, x: Tensor) -> Tensor:
        """Images in [0, 1], of checked ones."""
        excess = max(float(x.max()) - 1, -float(x.min())) if x.numel() else 0.0
        if excess <= 0:
            return x
        self.largest = max(self.largest, excess)
        return x.clamp(0, 1)

    def take_note(self) -> str:
        """What was clamped; empty where nothing was, or where that was said before."""
        if self.said or not self.largest:
            return ""
        self.said = True
        return (
            f"pixels up to {self.largest:.2g} outside [0, 1], a rounding error, are clamped to it"
        )


def check_range(x: Tensor, name: str, precision: float = 0.0) -> None:
    """Raise DataError where images are outside [0, 1] by more than a rounding error.

    Args:
        x: floats of any shape.
        name: what an error calls them.
        precision: the machine epsilon of what they were given in.
    """
    if not x.numel():
        return
    rounding, low, high = max(ROUNDING, precision), float(x.min()), float(x.max())
    if low >= -rounding and high <= 1 + rounding:  # false for NaN
        return
    kind, fix = _recognise(x, low, high)
    raise DataError(
        join_notes(f"images outside [0, 1]: {low:.6g} to {high:.6g}", kind), where=name, fix=fix
    )


def _recognise(x: Tensor, low: float, high: float) -> tuple[str, str]:
    """What images out of range look like, where that is clear, and how to mend them."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "not all pixels are finite", "find where NaN or infinity comes from"
    if low >= 0:
        if 2 < high <= WHITE:
            return "they look like 0 to 255", "divide by 255, or give arrays of uint8"
        return "", "give pixels in [0, 1], or arrays of uint8"
    if low >= -1 - ROUNDING and high <= 1 + ROUNDING and low < -0.9 and high > 0.9:
        return "they look like -1 to 1", "give (x + 1) / 2; leave normalisation to the model"
    values = x.double()
    mean, std = float(values.mean()), float(values.std())
    if abs(mean) < NORMALISED_MEAN and NORMALISED_STD[0] < std < NORMALISED_STD[1]:
        return "they look already normalised", "leave normalisation to the model"
    return "", "give pixels in [0, 1]; if they are normalised, leave normalisation to the model"
