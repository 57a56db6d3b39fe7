"""digits: 1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from abatis.data.arrays import Arrays
from abatis.data.in_memory import open_arrays
from abatis.data.info import Data, DataInfo, require_size, resolve_augment
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.statistics import DIGITS_MEAN, DIGITS_STD

FILE = "datasets/data/digits.csv.gz"  # in scikit-learn
NOTE = "1,797 real digits of 8x8 pixels: a demonstration, not a benchmark"
INFO = DataInfo("digits", 10, 1, 8, DIGITS_MEAN, DIGITS_STD, "none", NOTE)


class DigitsSource(DataSource):
    """The digits need no files and no network."""

    def describe(self, request: DataRequest) -> DataInfo:
        """Their facts, with the augmentation that is asked for; raises UsageError."""
        require_size(INFO.name, INFO.image_size, request.image_size)
        return replace(INFO, augment=resolve_augment(request.augment, INFO.augment))

    def open(self, request: DataRequest) -> Data:
        """The splits in memory; raises DataError, UsageError."""
        return open_arrays(read_digits(), self.describe(request), request)


def read_digits() -> Arrays:
    """1,437 training and 360 test images: every fifth image of each class is a test image."""
    values, labels = _load()
    images = torch.from_numpy(np.round(values * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    is_test = torch.zeros(len(y), dtype=torch.bool)
    is_test[y.argsort(stable=True)[::5]] = True
    return Arrays(images[~is_test], y[~is_test], images[is_test], y[is_test])


def _load() -> tuple[Any, Any]:
    """Values (1797, 64) from 0 to 16 and labels (1797,), from the file in scikit-learn.

    To import scikit-learn takes half as long as to import torch, and reads the same file.
    """
    found = importlib.util.find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        if (file := Path(folder, FILE)).is_file():
            rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1], rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    return values, labels


DIGITS = DigitsSource()
