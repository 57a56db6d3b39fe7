"""npz:PATH, four arrays in one .npz file: x_train, y_train, x_test, y_test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abatis.data.arrays import Arrays, check_alike, parse_labels
from abatis.data.in_memory import COMPARED, Copies, choose_kept, open_kept
from abatis.data.info import Data, DataInfo, join_notes, require_size, resolve_augment
from abatis.data.npz_file import Array, NpzArray, read_headers
from abatis.data.order import apply_limit
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.statistics import PixelCounts
from abatis.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")
FORM = "images must be uint8, NHWC (or NHW for grey ones), square"

See = Callable[[Array, Tensor], None]
"""Takes some images twice: (b, H, W[, C]) as they are stored, and as (b, C, H, W)."""


class NpzSource(DataSource):
    """The images of a file that a run uses, in memory."""

    def describe(self, request: DataRequest) -> DataInfo:
        """From headers and labels; mean and std from all training images, if they are needed."""
        file = open_npz(request.path)
        info = _describe(file, request)
        if not request.measure:
            return info
        counts = PixelCounts(info.channels)
        file.take(file.x_train, torch.arange(0), lambda _, images: counts.add(images))
        return _with_statistics(info, counts)

    def open(self, request: DataRequest) -> Data:
        """The splits in memory; raises DataError, UsageError."""
        file = open_npz(request.path)
        return file.open(_describe(file, request), request, measure=True)

    def matches(self, path: Path) -> bool:
        """Is it an .npz file by its name?"""
        return path.suffix == ".npz"


@dataclass(frozen=True)
class NpzFile:
    """A file, checked: the labels, and images that have not been read.

    Attributes:
        path: the file.
        x_train: of the training images.
        y_train: (N,) int64.
        x_test: of the test images.
        y_test: (M,) int64.
    """

    path: Path
    x_train: NpzArray
    y_train: Tensor
    x_test: NpzArray
    y_test: Tensor

    @property
    def channels(self) -> int:
        """Of the images."""
        return _shape(self.x_train)[1]

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return _shape(self.x_train)[2]

    @property
    def num_classes(self) -> int:
        """One more than the largest label of both sets."""
        return int(torch.maximum(self.y_train.max(), self.y_test.max())) + 1

    def open(self, info: DataInfo, request: DataRequest, measure: bool = False) -> Data:
        """The splits in memory. Of the images, those that are used are kept; each is read once.

        Args:
            info: the facts of the data.
            request: how to open them.
            measure: find the mean and std of all training images.

        Raises:
            DataError: the file cannot be read.
            UsageError: an option does not apply to the data.
        """
        counts, copies = PixelCounts(self.channels), Copies()
        compared = len(self.x_train) + len(self.x_test) <= COMPARED
        some, tested = apply_limit(request.limit, self.y_train, self.y_test)
        kept = choose_kept(request, tested, self.y_test)

        def see_test(stored: Array, _: Tensor) -> None:
            if compared:
                copies.note_test(stored)

        def see_train(stored: Array, images: Tensor) -> None:
            if measure:
                counts.add(images)
            if compared:
                copies.note_train(stored)

        x_test = self.take(self.x_test, kept, see_test)
        x_train = self.take(self.x_train, some, see_train)
        if measure:
            info = _with_statistics(info, counts)
        info = replace(info, note=join_notes(info.note, copies.describe()))
        arrays = Arrays(x_train, self.y_train[some], x_test, self.y_test[kept])
        return open_kept(arrays, info, request, tested)

    def take(self, array: NpzArray, rows: Tensor, see: See) -> Tensor:
        """Some images, (n, C, H, W) uint8, for ascending rows (n,) int64; all are read and seen.

        Raises DataError where the file cannot be read.
        """
        shape = _shape(array)
        taken = torch.empty(len(rows), *shape[1:], dtype=torch.uint8)
        with _explain(self.path):
            for start, stored in array.read_blocks():
                stop = start + len(stored)
                first, last = torch.searchsorted(rows, torch.tensor([start, stop])).tolist()
                seen = torch.from_numpy(stored.reshape(len(stored), *shape[2:], shape[1]))
                seen = seen.permute(0, 3, 1, 2)
                if last - first == len(stored):
                    images = taken[first:last].copy_(seen)
                else:
                    images = seen.contiguous()
                    taken[first:last] = images[rows[first:last] - start]
                see(stored, images)
        return taken


def open_npz(path: Path) -> NpzFile:
    """The file, its images not read. Raises DataError that names it and what is wrong with it."""
    found = _read_headers(path)
    x_train, x_test = (_check_images(found[name]) for name in ("x_train", "x_test"))
    shapes = (_shape(x_train), _shape(x_test))
    train, test = (torch.empty(shape, dtype=torch.uint8, device="meta") for shape in shapes)
    check_alike(train, test, str(path))
    with _explain(path):
        labels = {name: found[name].read() for name in ("y_train", "y_test")}
    y_train = parse_labels(labels["y_train"], len(x_train), "y_train", str(path))
    y_test = parse_labels(labels["y_test"], len(x_test), "y_test", str(path))
    return NpzFile(path, x_train, y_train, x_test, y_test)


def _describe(file: NpzFile, request: DataRequest) -> DataInfo:
    """The facts; colour images are cropped and flipped unless another augmentation is asked for.

    Mean and std are 0 and 1 as long as they are not measured.
    """
    channels, size = file.channels, file.image_size
    require_size(request.spec, size, request.image_size)
    augment = resolve_augment(request.augment, "crop-flip" if channels == 3 else "none")
    unknown = (0.0,) * channels, (1.0,) * channels
    return DataInfo(request.spec, file.num_classes, channels, size, *unknown, augment)


def _with_statistics(info: DataInfo, counts: PixelCounts) -> DataInfo:
    mean, std = counts.measure()
    return replace(info, mean=mean, std=std)


def _read_headers(path: Path) -> dict[str, NpzArray]:
    if not path.is_file():
        raise DataError(
            "there is no such .npz file",
            where=str(path),
            fix=f"check the path, or save the arrays {', '.join(KEYS)} there",
        )
    with _explain(path):
        found, names = read_headers(path, KEYS)
    missing = [name for name in KEYS if name not in found]
    if missing:
        raise DataError(
            f"no array {', '.join(missing)} in the file; it holds: {', '.join(names) or 'nothing'}",
            where=str(path),
            fix=f"save the arrays {', '.join(KEYS)}",
        )
    return dict(found)


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Inside, errors of zip, zlib and headers all mean the same thing: a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"the file cannot be read ({type(error).__name__}: {error})",
            where=str(path),
            fix="write it again with numpy.savez, without object arrays",
        ) from error


def _shape(array: NpzArray) -> tuple[int, int, int, int]:
    """(N, C, H, W) of images that are stored as NHWC or NHW."""
    count, height, width, *channels = array.shape
    return count, channels[0] if channels else 1, height, width


def _check_images(array: NpzArray) -> NpzArray:
    """Raise DataError for what is not NHWC or NHW uint8."""
    shape = array.shape if len(array.shape) != 3 else (*array.shape, 1)
    if array.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2]:
        raise DataError(
            f"{array.name} is {array.dtype} of shape {shape}", where=str(array.path), fix=FORM
        )
    return array


NPZ = NpzSource()
