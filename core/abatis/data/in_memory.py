"""Data sets whose images fit into memory, opened as a request asks for them."""

from __future__ import annotations

from dataclasses import replace

from abatis.data.arrays import Arrays
from abatis.data.extra import add_extra
from abatis.data.info import Data, DataInfo
from abatis.data.order import apply_limit
from abatis.data.request import DataRequest


def open_arrays(arrays: Arrays, info: DataInfo, request: DataRequest) -> Data:
    """The splits of arrays, with additional training images where the request has them.

    Raises DataError, UsageError.
    """
    some, tested = apply_limit(request.limit, arrays.y_train, arrays.y_test)
    if len(some) < len(arrays.y_train):
        arrays = replace(arrays, x_train=arrays.x_train[some], y_train=arrays.y_train[some])
    data = arrays.open(info, tested, request)
    return data if request.extra is None else add_extra(data, arrays, request.extra)
