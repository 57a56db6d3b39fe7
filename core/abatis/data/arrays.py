"""Images that fit into memory: checked once, kept as one tensor on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.data.augment import augmented, moved, to_unit
from abatis.data.info import Data, DataInfo, Rows, Split, whole
from abatis.data.order import hold_out, limited
from abatis.errors import DataError


class ArraySplit:
    """A split in memory. Subsets share the images of the whole set.

    images: (N, C, H, W) uint8, or float32 in [0, 1], on the device; labels: (N,) int64 on the CPU;
    index: (n,) int64, which of the N, by default all.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, augment: str, index: Tensor | None = None
    ) -> None:
        self.index = torch.arange(len(images)) if index is None else index
        self.labels = labels[self.index]
        self._images, self._labels, self.augment = images, labels, augment

    def __len__(self) -> int:
        return len(self.index)

    def subset(self, positions: Tensor) -> Split:
        """The split of some positions, (m,) int64; the images are not copied."""
        return ArraySplit(self._images, self._labels, self.augment, self.index[positions])

    def train_batches(
        self, batches: Iterable[tuple[int, Tensor]], seed: int, rows: Rows = whole
    ) -> Iterator[Batch]:
        """Augmented batches, a process's rows of each, for pairs (global step, (B,) positions)."""
        for step, positions in batches:
            mine = rows(len(positions))
            batch = self.stored(positions[mine])
            x = augmented(batch.x, self.augment, seed, step, mine, len(positions))
            yield Batch(to_unit(x), batch.y, batch.index)

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """All images in order, not augmented."""
        for positions in torch.split(torch.arange(len(self)), batch_size):
            batch = self.stored(positions)
            yield Batch(to_unit(batch.x), batch.y, batch.index)

    def stored(self, positions: Tensor) -> Batch:
        """Some images as they are stored, on the device."""
        device = self._images.device
        index = moved(self.index[positions], device)
        return Batch(self._images[index], moved(self.labels[positions], device), index)


@dataclass(frozen=True)
class Arrays:
    """A whole data set on the CPU. Images: (N, C, H, W) uint8, or float32 in [0, 1]; labels: (N,) int64."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def num_classes(self) -> int:
        """One more than the largest label of both sets."""
        return int(torch.maximum(self.y_train.max(), self.y_test.max())) + 1

    def open(self, info: DataInfo, limit: int | None, device: torch.device) -> Data:
        """The splits: the first ``limit`` training images, of which some are held out, and their share of the test images."""
        some, tested = limited(limit, len(self.y_train), len(self.y_test))
        train, val = hold_out(
            ArraySplit(self.x_train[:some].to(device), self.y_train[:some], info.augment)
        )
        return Data(
            info,
            train,
            val,
            ArraySplit(self.x_test[:tested].to(device), self.y_test[:tested], "none"),
        )


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of (N, C, H, W) images, in [0, 1] units; exact for uint8.

    A constant channel gets the standard deviation 1, by which the network can divide.
    """
    if images.dtype != torch.uint8:
        std, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
        return tuple(mean.tolist()), tuple(value or 1.0 for value in std.tolist())
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = (
            torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        )  # (256,)
        mean = (share * values).sum()
        means.append(float(mean))
        stds.append(float((share * (values - mean) ** 2).sum().sqrt()) or 1.0)
    return tuple(means), tuple(stds)


def checked_labels(values: Any, count: int, name: str, where: str) -> Tensor:
    """Labels as (count,) int64, from a tensor, array or list; raises DataError unless they are integers >= 0."""
    labels = np.asarray(values.tolist() if isinstance(values, Tensor) else values)
    if count == 0:
        raise DataError(
            f"{name} is empty: there are no images", where=where, fix="give at least one image"
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
            fix="give one label an image",
        )
    if labels.min() < 0:
        raise DataError(
            f"{name} has the negative label {labels.min()}",
            where=where,
            fix="number the classes from 0",
        )
    return torch.from_numpy(labels.astype(np.int64))


def check_alike(x_train: Tensor, x_test: Tensor, where: str) -> None:
    """Raise DataError where training and test images, (N, C, H, W) each, differ in type or shape."""
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        train, test = (
            f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape[1:])}" for x in (x_train, x_test)
        )
        raise DataError(
            f"training images are {train}, test images {test}",
            where=where,
            fix="make them alike in type and (C, H, W)",
        )
