"""Labelled images: a named set, ``npz:PATH``, ``folder:PATH``, or what a program hands over."""

from __future__ import annotations

from abatis.data.info import Data, DataInfo, Split, View
from abatis.data.order import batches_per_epoch, epoch_batches
from abatis.data.request import DataRequest
from abatis.data.sources import describe, open_data
from abatis.data.user import from_user

__all__ = [
    "Data",
    "DataInfo",
    "DataRequest",
    "Split",
    "View",
    "batches_per_epoch",
    "describe",
    "epoch_batches",
    "from_user",
    "open_data",
]
