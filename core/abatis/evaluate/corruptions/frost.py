"""The photographs of frost, which no formula replaces: read from an installed package's files."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import PurePath

import numpy as np
from PIL import Image as Pictures

from abatis.evaluate.corruptions.operations import Bytes

CARRIERS = ("imagecorruptions-imaug", "imagecorruptions", "corrupt-tta")
"""Packages that bring the photographs; nothing of them is imported."""

PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The published corruption draws from the first five of six."""

MISSING = "its photographs come with a package, pip install --no-deps imagecorruptions-imaug"


@cache
def read_frost() -> tuple[Bytes, ...]:
    """Return the photographs, (H, W, 3) each; none where no package brings them all."""
    for name in CARRIERS:
        try:
            listed = files(name) or []
        except PackageNotFoundError:
            continue
        found = {PurePath(str(path)).name: path.locate() for path in listed}
        if all(name in found for name in PHOTOGRAPHS):
            paths = [str(found[name]) for name in PHOTOGRAPHS]
            return tuple(np.asarray(Pictures.open(path).convert("RGB")) for path in paths)
    return ()
