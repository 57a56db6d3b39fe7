"""Tiny folders of images, made for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abatis.data import DataInfo, describe
from abatis.errors import DataError
from tests.data.common import asked, opened


def write(path: Path, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Path:
    """A picture (width, height) of noise, a function of its path's last two parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = np.random.default_rng(list(f"{path.parent.name}/{path.name}".encode()))
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    Image.fromarray(source.integers(0, 256, shape, dtype=np.uint8), mode).save(path)
    return path


def pets(root: Path, size: tuple[int, int] = (12, 12), test: str = "val") -> Path:
    """Cats and dogs: 4 + 2 training images, 1 + 1 test images."""
    for number in range(4):
        write(root / "train" / "cat" / f"{number}.png", size)
    for number in range(2):
        write(root / "train" / "dog" / f"{number}.png", size)
    write(root / test / "cat" / "9.png", size)
    write(root / test / "dog" / "9.png", size)
    return root


def error(root: Path) -> str:
    """What is said of a folder whose images cannot be opened or read."""
    with pytest.raises(DataError) as caught:
        list(opened(f"folder:{root}").train.eval_batches(2))
    assert str(caught.value).count("\n") <= 3
    return str(caught.value)


def facts(root: Path, **options: Any) -> DataInfo:
    return describe(asked(f"folder:{root}", **options))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) / np.float32(255)
