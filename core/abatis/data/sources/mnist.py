"""mnist: handwritten digits (LeCun et al., 1998), from the four IDX files."""

from __future__ import annotations

import gzip

import numpy as np
import torch
from torch import Tensor

from abatis.data.info import DataInfo
from abatis.data.sources.named import Labelled, NamedSource
from abatis.data.sources.published import PublishedFile
from abatis.data.statistics import MNIST_MEAN, MNIST_STD

URL = "https://ossci-datasets.s3.amazonaws.com/mnist"


def parse_mnist(*files: bytes) -> tuple[Labelled, Labelled]:
    """Training and test set from the contents of the files: images and labels of each."""
    x_train, y_train, x_test, y_test = (_parse_idx(gzip.decompress(file)) for file in files)
    return (x_train[:, None], y_train.long()), (x_test[:, None], y_test.long())


def _parse_idx(content: bytes) -> Tensor:
    """An array of bytes behind its header.

    The header is two zeros, the type, the number of dimensions, and each of these as four bytes.
    """
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, 4).tolist()
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(values.reshape(shape).copy())


def _file(name: str, sha256: str) -> PublishedFile:
    return PublishedFile(f"MNIST/raw/{name}", sha256, f"{URL}/{name}")


MNIST = NamedSource(
    DataInfo("mnist", 10, 1, 28, MNIST_MEAN, MNIST_STD, "none"),
    (
        _file(
            "train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        _file(
            "train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        _file(
            "t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        _file(
            "t10k-labels-idx1-ubyte.gz",
            "f7ae60f92e00ed6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    parse_mnist,
)
