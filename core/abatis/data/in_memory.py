"""Data sets whose images fit into memory, opened as a request asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from abatis.data.arrays import Arrays
from abatis.data.extra import add_extra
from abatis.data.info import Data, DataInfo, describe_copies, join_notes
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
    data = arrays.open(info, tested, request)
    return data if request.extra is None else add_extra(data, arrays, request.extra)


def _describe_copies(arrays: Arrays) -> str:
    """A note where test images are exact copies of training images, pixel by pixel."""
    if len(arrays.x_train) + len(arrays.x_test) > COMPARED:
        return ""
    known = set(_digest_images(arrays.x_train))
    copies = [
        f"image {index}"
        for index, digest in enumerate(_digest_images(arrays.x_test))
        if digest in known
    ]
    return describe_copies(copies, len(arrays.x_test))


def _digest_images(images: Tensor) -> Iterator[bytes]:
    """The sha256 of every image, (N, C, H, W)."""
    return (hashlib.sha256(image.data).digest() for image in images.cpu().contiguous().numpy())
