"""Kernels, zooms and textures that the corruptions are made of. Images are (H, W, 3) in [0, 1]."""

from __future__ import annotations

from math import ceil, cos, hypot, radians, sin
from typing import cast

import numpy as np
import scipy
from numpy.random import RandomState
from numpy.typing import NDArray

Image = NDArray[np.float64]
HALF_DISC = 8  # pixels; the grid of discs up to this radius


def blur(x: Image, sigma: float) -> Image:
    """Gaussian blur of each channel, with the border pixels repeated."""
    return cast(
        Image, scipy.ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=4)
    )


def make_disc(radius: float, sigma: float) -> Image:
    """A disc of sum 1, itself blurred by a small Gaussian of 3x3 or, if it is large, 5x5."""
    half, width = (HALF_DISC, 1) if radius <= HALF_DISC else (int(radius), 2)
    grid = np.arange(-half, half + 1)
    disc = (grid[:, None] ** 2 + grid[None, :] ** 2 <= radius**2).astype(np.float64)
    disc /= disc.sum()
    steps = np.arange(-width, width + 1)
    kernel = np.exp(-(steps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    rows = scipy.ndimage.correlate1d(disc, kernel, axis=0, mode="mirror")
    return cast(Image, scipy.ndimage.correlate1d(rows, kernel, axis=1, mode="mirror"))


def blur_motion(x: Image, radius: int, sigma: float, angle: float) -> Image:
    """ImageMagick's motion blur: half a Gaussian along a line, with the border pixels repeated.

    Args:
        x: (H, W, 3), or (H, W).
        radius: pixels; the line has 2 radius + 1 of them.
        sigma: of the Gaussian.
        angle: of the line, in degrees.
    """
    width = 2 * radius + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    down, right = width * sin(radians(angle)), width * cos(radians(angle))
    length = hypot(down, right)
    rows, columns = np.arange(x.shape[0]), np.arange(x.shape[1])
    total = np.zeros_like(x)
    for step, weight in enumerate(weights):
        dy, dx = ceil(step * down / length - 0.5), ceil(step * right / length - 0.5)
        there = np.clip(rows + dy, 0, x.shape[0] - 1), np.clip(columns + dx, 0, x.shape[1] - 1)
        total += weight * x[there[0][:, None], there[1][None, :]]
    return total


def zoom_centre(x: Image, factor: float) -> Image:
    """The middle of an image, enlarged linearly to its own size."""
    side = x.shape[0]
    inner = ceil(side / factor)
    top = (side - inner) // 2
    zooms = (factor, factor, *((1,) * (x.ndim - 2)))
    large = scipy.ndimage.zoom(x[top : top + inner, top : top + inner], zooms, order=1)
    cut = (large.shape[0] - side) // 2
    return cast(Image, large[cut : cut + side, cut : cut + side])


def make_plasma(side: int, decay: float, draws: RandomState) -> Image:
    """Diamond-square noise in [0, 1], (side, side); it wraps round, and side is a power of 2.

    The published draws of a scale have the half width ``size * size``, where ``size`` begins at
    100 and is divided by ``decay`` at each halving of the step.
    """
    plasma, step, size = np.zeros((side, side)), side, 100.0

    def draw(corners: Image) -> Image:
        return corners / 4 + size * draws.uniform(-size, size, corners.shape)

    while step >= 2:
        half = step // 2
        corners = plasma[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        plasma[half::step, half::step] = draw(pairs + np.roll(pairs, -1, 1))
        centres, corners = plasma[half::step, half::step], plasma[::step, ::step]
        beside = centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1)
        plasma[::step, half::step] = draw(beside)
        above = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0)
        plasma[half::step, ::step] = draw(above)
        step, size = half, size / decay
    plasma -= plasma.min()
    return cast(Image, plasma / plasma.max())


def shuffle_near(pixels: NDArray[np.uint8], reach: int, draws: RandomState) -> NDArray[np.uint8]:
    """Overwrite every inner pixel by one at a random offset below ``reach``, from the last one on.

    The released code means to exchange both, but its views make it copy; the files were made so.
    """
    side = len(pixels)
    places = range(side - reach, reach, -1)
    offsets = draws.randint(-reach, reach, size=(len(places) ** 2, 2)).tolist()
    source = list(range(side * side))  # which pixel is at each place now
    here = (row * side + column for row in places for column in places)
    for place, (right, down) in zip(here, offsets, strict=True):
        source[place] = source[place + down * side + right]
    return pixels.reshape(-1, 3)[source].reshape(pixels.shape)


def warp(x: Image, start: Image, end: Image) -> Image:
    """The affine image of x that takes three points (x, y), (3, 2) each, to three others."""
    back = np.linalg.solve(np.c_[end, np.ones(3)], start)  # (3, 2): from there to here
    side = np.arange(x.shape[0], dtype=np.float64)
    columns, rows = np.meshgrid(side, side)
    places: Image = np.stack([columns, rows, np.ones(rows.shape)], axis=-1) @ back
    return sample(x, places[..., 1], places[..., 0], "mirror")


def sample(x: Image, rows: Image, columns: Image, mode: str) -> Image:
    """The image at broken places, (H, W) each, by linear interpolation."""
    channels = [
        scipy.ndimage.map_coordinates(x[..., channel], [rows, columns], order=1, mode=mode)
        for channel in range(x.shape[2])
    ]
    return cast(Image, np.stack(channels, axis=-1))
