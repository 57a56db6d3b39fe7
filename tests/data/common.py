"""What the tests of the data package share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from abatis.data import Data, DataRequest, open_data
from tests.reference import reference_dir

CPU = torch.device("cpu")


def opened(spec: str, **options: Any) -> Data:
    """``open_data`` with the defaults of a run on the CPU."""
    return open_data(asked(spec, **options))


def asked(spec: str, **options: Any) -> DataRequest:
    """A request for data that lie nowhere by default."""
    return DataRequest(spec, **{"data_dir": Path("nowhere"), **options})


def reference(name: str) -> Path:
    """A file or folder of the reference data; skips the test where it is absent."""
    folder = reference_dir()
    if folder is None or not (folder / "data" / name).exists():
        pytest.skip(f"no reference data: {name}")
    return folder / "data" / name


def random_arrays(
    n_train: int = 40, n_test: int = 12, channels: int = 3, size: int = 16
) -> dict[str, Any]:
    """The four arrays of an npz file, with labels 0..3."""
    source = np.random.default_rng(0)
    return {
        "x_train": source.integers(0, 256, (n_train, size, size, channels), dtype=np.uint8),
        "y_train": np.arange(n_train) % 4,
        "x_test": source.integers(0, 256, (n_test, size, size, channels), dtype=np.uint8),
        "y_test": np.arange(n_test) % 3,
    }
