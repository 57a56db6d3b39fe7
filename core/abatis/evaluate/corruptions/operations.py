"""The fifteen corruptions as functions of an image, its parameters and a source of random draws."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy
from numpy.random import MT19937, RandomState
from numpy.typing import NDArray
from PIL import Image as Pictures

from abatis.api.randomness import seed_for
from abatis.evaluate.corruptions.geometry import (
    Image,
    blur,
    blur_motion,
    make_disc,
    make_plasma,
    sample,
    shuffle_near,
    warp,
    zoom_centre,
)
from abatis.evaluate.corruptions.published import PARAMETERS

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue
PLASMA = {32: 32, 224: 256}  # side of the fog's texture, by that of the image

Bytes = NDArray[np.uint8]


def corrupt(
    pixels: Bytes, name: str, severity: int, draws: RandomState, frost: tuple[Bytes, ...] = ()
) -> Bytes:
    """Corrupt one image.

    Args:
        pixels: (H, W, 3), of a side that :data:`PARAMETERS` knows.
        name: of the corruption.
        severity: 1 to 5.
        draws: the random numbers.
        frost: photographs of frost; for ``frost`` alone.

    Returns:
        (H, W, 3); values are cut off, not rounded, as published.
    """
    given = PARAMETERS[len(pixels)][name][severity - 1]
    if name in IN_BYTES:
        return IN_BYTES[name](pixels, given)
    if name == "frost":
        return to_bytes(_frost(pixels, given, draws, frost) / 255)
    return to_bytes(OPERATIONS[name](pixels / 255.0, given, draws))


def draw_for(seed: int, name: str, severity: int, index: int) -> RandomState:
    """The random numbers of one image: they depend on nothing else, and never change."""
    return RandomState(MT19937(seed_for(seed, f"corruption/{name}/{severity}", index)))


def to_bytes(x: Image) -> Bytes:
    """Clip to [0, 1] and cut to 8 bits."""
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(x: Image, c: float, draws: RandomState) -> Image:
    return x + draws.normal(size=x.shape, scale=c)


def _shot_noise(x: Image, c: float, draws: RandomState) -> Image:
    return draws.poisson(x * c) / c


def _impulse_noise(x: Image, c: float, draws: RandomState) -> Image:
    hit = draws.uniform(size=x.shape) < c
    return np.where(hit, draws.uniform(size=x.shape) < 0.5, x)


def _defocus_blur(x: Image, c: tuple[float, float], _: RandomState) -> Image:
    disc = make_disc(*c)
    channels = [scipy.ndimage.correlate(x[..., one], disc, mode="mirror") for one in range(3)]
    return np.stack(channels, axis=-1)


def _glass_blur(x: Image, c: tuple[float, int, int], draws: RandomState) -> Image:
    sigma, reach, times = c
    pixels = (blur(x, sigma) * 255).astype(np.uint8)
    for _ in range(times):
        pixels = shuffle_near(pixels, reach, draws)
    return blur(pixels / 255.0, sigma)


def _motion_blur(x: Image, c: tuple[int, float], draws: RandomState) -> Image:
    return blur_motion(x, *c, angle=draws.uniform(-45, 45))


def _zoom_blur(x: Image, c: tuple[float, float], _: RandomState) -> Image:
    factors = np.arange(1, *c)
    total = x + sum(zoom_centre(x, float(factor)) for factor in factors)
    return np.asarray(total / (len(factors) + 1))


def _snow(x: Image, c: tuple[float, ...], draws: RandomState) -> Image:
    mean, deviation, zoom, threshold, radius, sigma, kept = c
    layer = zoom_centre(draws.normal(size=x.shape[:2], loc=mean, scale=deviation), zoom)
    layer = np.where(layer < threshold, 0, layer)
    layer = to_bytes(layer) / 255.0
    layer = blur_motion(layer, int(radius), sigma, draws.uniform(-135, -45))[..., None]
    whiter = np.maximum(x, (x @ np.array(GREY))[..., None] * 1.5 + 0.5)
    return np.asarray(kept * x + (1 - kept) * whiter + layer + np.rot90(layer, 2))


def _fog(x: Image, c: tuple[float, float], draws: RandomState) -> Image:
    side, most = len(x), x.max()
    plasma = make_plasma(PLASMA[side], c[1], draws)[:side, :side, None]
    return np.asarray((x + c[0] * plasma) * most / (most + c[0]))


def _brightness(x: Image, c: float, _: RandomState) -> Image:
    """The largest channel is V of HSV; hue and saturation stay where all channels are scaled."""
    value = x.max(-1, keepdims=True)
    scale = np.clip(value + c, 0, 1) / np.where(value > 0, value, 1)
    return np.where(value > 0, x * scale, c)


def _contrast(x: Image, c: float, _: RandomState) -> Image:
    means = x.mean((0, 1), keepdims=True)
    return np.asarray((x - means) * c + means)


def _elastic_transform(x: Image, c: tuple[float, float, float], draws: RandomState) -> Image:
    alpha, sigma, reach = c
    side = len(x)
    centre, third = side // 2, side // 3
    near, far = centre - third, centre + third
    start = np.array([[far, far], [far, near], [near, near]], dtype=np.float64)
    x = warp(x, start, start + draws.uniform(-reach, reach, size=(3, 2)))
    down, right = (
        scipy.ndimage.gaussian_filter(
            draws.uniform(-1, 1, size=(side, side)), sigma, mode="reflect", truncate=3
        )
        * alpha
        for _ in range(2)
    )
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    return sample(x, rows + down, columns + right, "reflect")


def _frost(
    pixels: Bytes, c: tuple[float, float], draws: RandomState, photographs: tuple[Bytes, ...]
) -> Image:
    """Mix in a random part of a photograph; for small images it is shrunk to a fifth."""
    side = len(pixels)
    photograph = photographs[draws.randint(5)]
    if side == 32:  # linear interpolation at a fifth of the size hits every fifth pixel
        photograph = photograph[2::5, 2::5]
    top, left = (draws.randint(0, photograph.shape[axis] - side) for axis in (0, 1))
    part = photograph[top : top + side, left : left + side]
    return c[0] * pixels.astype(np.float64) + c[1] * part


def _pixelate(pixels: Bytes, c: float) -> Bytes:
    side = len(pixels)
    box = Pictures.Resampling.BOX
    small = Pictures.fromarray(pixels).resize((int(side * c), int(side * c)), box)
    return np.asarray(small.resize((side, side), box))


def _jpeg_compression(pixels: Bytes, c: int) -> Bytes:
    file = io.BytesIO()
    Pictures.fromarray(pixels).save(file, "JPEG", quality=c)
    return np.asarray(Pictures.open(file))


OPERATIONS: Mapping[str, Callable[[Image, Any, RandomState], Image]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
}
IN_BYTES: Mapping[str, Callable[[Bytes, Any], Bytes]] = {
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
