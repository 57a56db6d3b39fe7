"""Small images as PNG, for a page that loads nothing."""

from __future__ import annotations

import io
from base64 import b64encode

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY = 0.5


def encode_png(image: NDArray[np.float32]) -> str:
    """A PNG in base64.

    Args:
        image: (C, H, W) in [0, 1]; of other than one or three channels, the mean is shown.
    """
    channels = image if len(image) in (1, 3) else image.mean(0, keepdims=True)
    pixels = (channels.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
        buffer, "PNG", optimize=True
    )
    return b64encode(buffer.getvalue()).decode()


def encode_difference(difference: NDArray[np.float32]) -> tuple[str, float]:
    """A difference of images around mid grey, as large as fits, and how much it is enlarged.

    Args:
        difference: (C, H, W); zero is mid grey.
    """
    most = float(np.abs(difference).max())
    times = GREY / most if most > 0 else 1.0
    return encode_png(GREY + times * difference), times


def encode_gradient(gradient: NDArray[np.float32]) -> str:
    """A gradient, summed over the channels, with three standard deviations from black to white.

    Args:
        gradient: (C, H, W); zero is mid grey.
    """
    whole = gradient.sum(0, keepdims=True)
    spread = 3 * float(whole.std())
    return encode_png(GREY + GREY * whole / spread if spread > 0 else whole + GREY)
