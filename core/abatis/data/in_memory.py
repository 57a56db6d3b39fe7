"""Data sets whose images fit into memory, opened as a request asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from abatis.data.arrays import Arrays
from abatis.data.extra import add_extra
from abatis.data.info import Data, DataInfo, describe_copies, join_notes
from abatis.data.npz_file import Array
from abatis.data.order import apply_limit
from abatis.data.request import DataRequest

COMPARED = 200_000  # images; larger sets are not searched for copies


def open_arrays(arrays: Arrays, info: DataInfo, request: DataRequest) -> Data:
    """The splits of arrays, with additional training images where the request has them.

    Raises DataError, UsageError.
    """
    info = replace(info, note=join_notes(info.note, _describe_copies(arrays)))
    some, tested = apply_limit(request.limit, arrays.y_train, arrays.y_test)
    if len(some) < len(arrays.y_train):
        arrays = replace(arrays, x_train=arrays.x_train[some], y_train=arrays.y_train[some])
    kept = choose_kept(request, tested, arrays.y_test)
    if len(kept) < len(arrays.y_test):
        arrays = replace(arrays, x_test=arrays.x_test[kept], y_test=arrays.y_test[kept])
    return open_kept(arrays, info, request, tested)


def choose_kept(request: DataRequest, tested: Tensor, y_test: Tensor) -> Tensor:
    """Which test images have to be in memory, as positions: those that are used.

    With additional images all: these may be no copies of any test image, used or not.
    """
    return tested if request.extra is None else torch.arange(len(y_test))


def open_kept(arrays: Arrays, info: DataInfo, request: DataRequest, tested: Tensor) -> Data:
    """The splits of the training images that are used, and of the test images that are kept.

    Args:
        arrays: these images.
        info: the facts of the data.
        request: how to open them.
        tested: (n,) int64, which images of the whole test set are used.
    """
    if request.extra is not None:
        return add_extra(arrays.open(info, request, tested), arrays, request.extra)
    return replace(arrays, tested=tested).open(info, request)


def _describe_copies(arrays: Arrays) -> str:
    """A note where test images are exact copies of training images, pixel by pixel."""
    if len(arrays.x_train) + len(arrays.x_test) > COMPARED:
        return ""
    copies = Copies()
    for images, note in ((arrays.x_test, copies.note_test), (arrays.x_train, copies.note_train)):
        note(images.cpu().contiguous().numpy())
    return copies.describe()


@dataclass
class Copies:
    """Finds test images that are exact copies of training images; the test images come first.

    Attributes:
        digests: the sha256 of every test image.
        found: those that are the sha256 of a training image, too.
    """

    digests: list[bytes] = field(default_factory=list)
    found: set[bytes] = field(default_factory=set)

    def note_test(self, images: Array) -> None:
        """Test images, one an entry of the first axis, each contiguous."""
        self.digests += _digest_images(images)

    def note_train(self, images: Array) -> None:
        """Training images, likewise."""
        self.found.update(self._known.intersection(_digest_images(images)))

    @cached_property
    def _known(self) -> frozenset[bytes]:
        return frozenset(self.digests)

    def describe(self) -> str:
        """The note; empty without copies."""
        copies = [f"image {n}" for n, digest in enumerate(self.digests) if digest in self.found]
        return describe_copies(copies, len(self.digests))


def _digest_images(images: Array) -> Iterator[bytes]:
    """The sha256 of every image."""
    return (hashlib.sha256(image.data).digest() for image in images)
