"""Images that fit into memory: checked once, kept as one tensor on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.data.augment import augment_batch, to_device, to_unit
from abatis.data.info import Data, DataInfo, Rows, Split, whole
from abatis.data.order import hold_out
from abatis.data.request import DataRequest
from abatis.errors import DataError

LARGEST_LABEL = 999_999  # a million classes is far more than any data set has


class ArraySplit:
    """A split in memory. Subsets share the images of the whole set.

    Args:
        images: (N, C, H, W) uint8, or float32 in [0, 1], on the device.
        labels: (N,) int64 on the CPU.
        augment: "none", "crop" or "crop-flip".
        rows: (n,) int64, which of the N images, by default all.
        crop_padding: "zeros" or "reflect".
        numbers: (N,) int64, the position of each of the N images in the original set, by default
            0 to N - 1.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        augment: str,
        rows: Tensor | None = None,
        crop_padding: str = "zeros",
        numbers: Tensor | None = None,
    ) -> None:
        self._rows = torch.arange(len(images)) if rows is None else rows
        self.index = self._rows if numbers is None else numbers[self._rows]
        self.labels = labels[self._rows]
        self._images, self._labels, self._numbers = images, labels, numbers
        self.augment, self.crop_padding = augment, crop_padding

    def __len__(self) -> int:
        return len(self.index)

    def subset(self, positions: Tensor) -> Split:
        """The split of some positions, (m,) int64; the images are not copied."""
        return ArraySplit(
            self._images,
            self._labels,
            self.augment,
            self._rows[positions],
            self.crop_padding,
            self._numbers,
        )

    def train_batches(
        self, batches: Iterable[tuple[int, Tensor]], seed: int, rows: Rows = whole
    ) -> Iterator[Batch]:
        """Augmented batches, a process's rows of each, for pairs (global step, (B,) positions)."""
        for step, positions in batches:
            mine = rows(len(positions))
            batch = self.stored(positions[mine])
            x = self.augmented(batch.x, seed, step, mine)
            yield Batch(to_unit(x), batch.y, batch.index)

    def augmented(self, x: Tensor, seed: int, step: int, rows: slice) -> Tensor:
        """Some rows of a step's global batch, augmented: (B, C, H, W)."""
        return augment_batch(x, self.augment, seed, step, rows, self.crop_padding)

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """All images in order, not augmented."""
        for positions in torch.split(torch.arange(len(self)), batch_size):
            batch = self.stored(positions)
            yield Batch(to_unit(batch.x), batch.y, batch.index)

    def stored(self, positions: Tensor) -> Batch:
        """Some images as they are stored, on the device."""
        device = self._images.device
        rows = to_device(self._rows[positions], device)
        index = rows if self._numbers is None else to_device(self.index[positions], device)
        return Batch(self._images[rows], to_device(self.labels[positions], device), index)


@dataclass(frozen=True)
class Arrays:
    """A data set on the CPU.

    Images are (N, C, H, W) uint8, or float32 in [0, 1]; labels are (N,) int64. ``tested`` are the
    positions of the test images in the whole test set, where they are some of it.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    tested: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """One more than the largest label of both sets."""
        return int(torch.maximum(self.y_train.max(), self.y_test.max())) + 1

    def open(self, info: DataInfo, request: DataRequest, rows: Tensor | None = None) -> Data:
        """The splits: some of the training images are held out.

        Args:
            info: the facts of the data.
            request: how to open them.
            rows: (n,) int64, which of the test images to use; all by default.
        """
        x_train, x_test = self.x_train.to(request.device), self.x_test.to(request.device)
        padding = request.crop_padding
        training = ArraySplit(x_train, self.y_train, info.augment, crop_padding=padding)
        train, val = hold_out(training, request.validation)
        test = ArraySplit(x_test, self.y_test, "none", rows, numbers=self.tested)
        return Data(info, train, val, test)


def parse_labels(values: Any, count: int, name: str, where: str) -> Tensor:
    """Labels as (count,) int64, from a tensor, array or list of integers >= 0.

    Args:
        values: the labels.
        count: number of images that they belong to.
        name: what an error calls them.
        where: the file or object that they come from.

    Raises:
        DataError: they are not such integers, or not one for each image.
    """
    labels = np.asarray(values.tolist() if isinstance(values, Tensor) else values)
    if count == 0:
        raise DataError(
            f"{name} is empty: no images were given", where=where, fix="give at least one image"
        )
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        kind = str(getattr(values, "dtype", labels.dtype)).removeprefix("torch.")
        raise DataError(
            f"{name} is {kind} of shape {labels.shape}",
            where=where,
            fix="give integers of shape (N,)",
        )
    if len(labels) != count:
        raise DataError(
            f"{name} has {len(labels)} labels for {count} images",
            where=where,
            fix="give one label for each image",
        )
    check_label(int(labels.min()), name, where)
    check_label(int(labels.max()), name, where)
    return torch.from_numpy(labels.astype(np.int64))


def check_label(label: int, name: str, where: str) -> None:
    """Raise DataError where a label cannot be the number of a class.

    Args:
        label: the label.
        name: what an error calls the labels.
        where: the file or object that they come from.
    """
    if label < 0:
        raise DataError(
            f"{name} has the negative label {label}", where=where, fix="number the classes from 0"
        )
    if label > LARGEST_LABEL:
        raise DataError(
            f"{name} has the label {label}: a network would need as many outputs",
            where=where,
            fix=f"number the classes 0, 1, 2, ...; the largest label is {LARGEST_LABEL:,}",
        )


def check_alike(x_train: Tensor, x_test: Tensor, where: str) -> None:
    """Raise DataError where images (N, C, H, W) of the two sets differ in type or shape."""
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        train, test = (
            f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape[1:])}" for x in (x_train, x_test)
        )
        raise DataError(
            f"training images are {train}, test images {test}",
            where=where,
            fix="give both the same type and (C, H, W)",
        )
