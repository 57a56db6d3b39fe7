"""svhn: street view house numbers (Netzer et al., 2011), the MATLAB files of cropped digits."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from abatis.data.info import DataInfo
from abatis.data.sources.named import Labelled, NamedSource
from abatis.data.sources.published import PublishedFile
from abatis.data.statistics import SVHN_MEAN, SVHN_STD

URL = "http://ufldl.stanford.edu/housenumbers"


def parse_svhn(train: bytes, test: bytes) -> tuple[Labelled, Labelled]:
    """Training and test set from the contents of their files."""
    from scipy.io import loadmat

    return _read(loadmat(io.BytesIO(train))), _read(loadmat(io.BytesIO(test)))


def _read(table: dict[str, Any]) -> Labelled:
    """X is (32, 32, 3, N); the label 10 stands for the digit 0."""
    images = torch.from_numpy(np.ascontiguousarray(table["X"].transpose(3, 2, 0, 1)))
    return images, torch.from_numpy(table["y"].astype(np.int64).reshape(-1) % 10)


SVHN = NamedSource(
    DataInfo("svhn", 10, 3, 32, SVHN_MEAN, SVHN_STD, "crop"),
    (
        PublishedFile(
            "train_32x32.mat",
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            f"{URL}/train_32x32.mat",
        ),
        PublishedFile(
            "test_32x32.mat",
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            f"{URL}/test_32x32.mat",
        ),
    ),
    parse_svhn,
)
