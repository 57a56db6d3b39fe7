"""Data sets with a name: the digits that come with scikit-learn, and four benchmarks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from abatis.data.archives import FILES, read_archives
from abatis.data.arrays import Arrays
from abatis.data.info import DataInfo, require_size, resolve_augment
from abatis.data.npz import KEYS, read_npz
from abatis.errors import DataError

DIGITS_NOTE = "1,797 real digits of 8x8 pixels: a demonstration, no benchmark"

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
SVHN_MEAN, SVHN_STD = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)

NAMED = {
    info.name: info
    for info in (
        DataInfo("digits", 10, 1, 8, (0.3058,), (0.3761,), "none", DIGITS_NOTE),
        DataInfo("cifar10", 10, 3, 32, CIFAR10_MEAN, CIFAR10_STD, "crop-flip"),
        DataInfo("cifar100", 100, 3, 32, CIFAR100_MEAN, CIFAR100_STD, "crop-flip"),
        DataInfo("svhn", 10, 3, 32, SVHN_MEAN, SVHN_STD, "crop"),
        DataInfo("mnist", 10, 1, 28, (0.1307,), (0.3081,), "none"),
    )
}


def named_info(name: str, image_size: int | None, augment: str) -> DataInfo:
    """The facts of a named set, known without its files."""
    known = NAMED[name]
    require_size(name, known.image_size, image_size)
    return replace(known, augment=resolve_augment(augment, known.augment))


def read_named(name: str, data_dir: Path) -> Arrays:
    """The images of a named set: from ``<data_dir>/<name>.npz``, else from the published files, which are then downloaded.

    Raises DataError where they cannot be had or are not what the name promises.
    """
    if name == "digits":
        return _digits()
    file = data_dir / f"{name}.npz"
    if not file.is_file():
        return _published(name, data_dir)
    arrays, info = read_npz(file), NAMED[name]
    if (
        arrays.x_train.shape[1:3] != (info.channels, info.image_size)
        or arrays.num_classes > info.num_classes
    ):
        channels, size = arrays.x_train.shape[1:3]
        raise DataError(
            f"these are not the images of {name}: {channels} channels, {size} pixels, {arrays.num_classes} classes",
            where=str(file),
            fix=f"rename the file, and use it as npz:{file}",
        )
    return arrays


def _digits() -> Arrays:
    """1,437 training and 360 test images: of every class each fifth is a test image, whatever the run."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(np.round(values * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    is_test = torch.zeros(len(y), dtype=torch.bool)
    is_test[y.argsort(stable=True)[::5]] = True
    return Arrays(images[~is_test], y[~is_test], images[is_test], y[is_test])


def _published(name: str, data_dir: Path) -> Arrays:
    try:
        return read_archives(name, data_dir)
    except DataError:
        raise
    except Exception as error:  # no network, no such host, no disk: the way out is the same
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{name} could not be read or downloaded ({type(error).__name__}: {reason})",
            where=f"{data_dir}: neither {name}.npz nor {FILES[name][0].path}",
            fix=f"save {', '.join(KEYS)} as {data_dir / name}.npz, or work offline with --data digits",
        ) from error
