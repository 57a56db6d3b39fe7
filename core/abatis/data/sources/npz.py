"""npz:PATH, four arrays in one .npz file: x_train, y_train, x_test, y_test."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abatis.data.arrays import Arrays, check_alike, parse_labels
from abatis.data.in_memory import open_arrays
from abatis.data.info import Data, DataInfo, require_size, resolve_augment
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.statistics import measure_statistics
from abatis.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")
FORM = "images must be uint8, NHWC (or NHW for grey ones), square"


class NpzSource(DataSource):
    """The arrays of a file, in memory."""

    def describe(self, request: DataRequest) -> DataInfo:
        """Read off the images, for there is nothing else to read them from."""
        return _describe(read_npz(request.path), request)

    def open(self, request: DataRequest) -> Data:
        """The splits in memory; raises DataError, UsageError."""
        arrays = read_npz(request.path)
        return open_arrays(arrays, _describe(arrays, request), request)

    def matches(self, path: Path) -> bool:
        """Is it an .npz file by its name?"""
        return path.suffix == ".npz"


def read_npz(path: Path) -> Arrays:
    """The four arrays, checked. Raises DataError that names the file and what is wrong with it."""
    found = _load(path)
    x_train, x_test = (_images(found[name], name, path) for name in ("x_train", "x_test"))
    check_alike(x_train, x_test, str(path))
    y_train = parse_labels(found["y_train"], len(x_train), "y_train", str(path))
    y_test = parse_labels(found["y_test"], len(x_test), "y_test", str(path))
    return Arrays(x_train, y_train, x_test, y_test)


def _describe(arrays: Arrays, request: DataRequest) -> DataInfo:
    """The facts; colour images are cropped and flipped unless another augmentation is asked for."""
    channels, size = arrays.x_train.shape[1:3]
    require_size(request.spec, size, request.image_size)
    mean, std = measure_statistics(arrays.x_train)
    augment = resolve_augment(request.augment, "crop-flip" if channels == 3 else "none")
    return DataInfo(request.spec, arrays.num_classes, channels, size, mean, std, augment)


def _load(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    if not path.is_file():
        raise DataError(
            "there is no such .npz file",
            where=str(path),
            fix=f"check the path, or save the arrays {', '.join(KEYS)} there",
        )
    try:
        zipfile.ZipFile(path).close()  # numpy takes any other file for a pickle
        with np.load(path, allow_pickle=False) as file:
            names = list(file.files)
            found = {name: file[name] for name in KEYS if name in names}
    except Exception as error:  # zip, zlib, header and pickle errors all mean the same thing
        raise DataError(
            f"the file cannot be read ({type(error).__name__}: {error})",
            where=str(path),
            fix="write it again with numpy.savez, without object arrays",
        ) from error
    missing = [name for name in KEYS if name not in found]
    if missing:
        raise DataError(
            f"no array {', '.join(missing)} in the file; it holds: {', '.join(names) or 'nothing'}",
            where=str(path),
            fix=f"save the arrays {', '.join(KEYS)}",
        )
    return found


def _images(array: np.ndarray[Any, Any], name: str, path: Path) -> Tensor:
    """NHWC or NHW uint8 as (N, C, H, W)."""
    if array.ndim == 3:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] != array.shape[2]:
        raise DataError(
            f"{name} is {array.dtype} of shape {array.shape}", where=str(path), fix=FORM
        )
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


NPZ = NpzSource()
