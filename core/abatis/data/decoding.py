"""Reads one image file of whatever kind as RGB, 8 bits a channel.

* 16 bits a channel are scaled to 8, not cut off.
* An image is turned as its EXIF orientation says.
* Transparent pixels are shown on white: the colours behind them mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image

from abatis.errors import DataError

LONGEST = 100  # times the shorter side: beyond it, resizing would need too much memory
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
SCALED_BY_PILLOW = ("PPM", "PNG")  # formats whose mode I holds 16 bits; Pillow scales a PGM to them


def read_rgb(file: str | BinaryIO, where: str) -> Image.Image:
    """The image of a file, RGB; raises DataError that names it.

    Args:
        file: its path, or its content.
        where: what an error calls it.
    """
    with _open_image(file, where) as image:
        image.load()
        return _turn(_to_rgb(image), _read_orientation(image))


def read_size(file: str | BinaryIO, where: str) -> tuple[int, int]:
    """Width and height in pixels as the header says; raises DataError that names the file."""
    with _open_image(file, where) as image:
        return image.size


@contextmanager
def _open_image(file: str | BinaryIO, where: str) -> Iterator[Image.Image]:
    """An image file, for reading; whatever fails inside is a DataError that names the file."""
    try:
        with Image.open(file) as image:
            if max(image.size) > LONGEST * min(image.size):
                raise ValueError(f"{image.width} x {image.height} pixels: too elongated")
            if image.mode in ("I", "F") and not _has_16_bits(image):  # white is not known
                raise ValueError("32 bits a channel are not supported")
            yield image
    except Exception as error:  # decoders raise whatever they like; it is the file in every case
        raise DataError(
            f"an image cannot be read ({type(error).__name__}: {error})",
            where=where,
            fix="repair or remove the file, or leave out such files with --skip-broken",
        ) from error


def _has_16_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in SCALED_BY_PILLOW)


def _to_rgb(image: Image.Image) -> Image.Image:
    if _has_16_bits(image):  # Pillow would cut them off at 255
        grey = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _read_orientation(image: Image.Image) -> int:
    """1 to 8, 1 where the image is upright; to be asked after Pillow has turned a TIFF itself."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data do not make an image unreadable
        return 1
    return found if isinstance(found, int) else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image
