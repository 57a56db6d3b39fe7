"""The benchmarks as their authors publish them: files that are opened only after their sha256 was checked.

Two of them hold pickles, which can run a program when they are opened.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abatis.data.arrays import Arrays
from abatis.errors import DataError
from abatis.system.files import write_bytes

SILENCE = 10.0  # seconds without an answer after which a download has failed
Labelled = tuple[Tensor, Tensor]  # images (N, C, H, W) uint8, labels (N,) int64


@dataclass(frozen=True)
class File:
    """A published file: where it lies below the data folder, and where it comes from."""

    path: str
    sha256: str
    url: str

    def content(self, data_dir: Path) -> bytes:
        """Its bytes, downloaded where it is missing. Raises DataError where they are others than the published ones."""
        path = data_dir / self.path
        if path.is_file():
            found = path.read_bytes()
        else:
            with urllib.request.urlopen(self.url, timeout=SILENCE) as answer:
                found = answer.read()
        digest = hashlib.sha256(found).hexdigest()
        if digest != self.sha256:
            raise DataError(
                f"not the published {path.name}: its sha256 is {digest}, not {self.sha256}",
                where=str(path) if path.is_file() else self.url,
                fix="remove the file and get it anew",
            )
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, found)
        return found


CIFAR, SVHN = "https://www.cs.toronto.edu/~kriz", "http://ufldl.stanford.edu/housenumbers"
MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
FILES = {
    "cifar10": (
        File(
            "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            f"{CIFAR}/cifar-10-python.tar.gz",
        ),
    ),
    "cifar100": (
        File(
            "cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            f"{CIFAR}/cifar-100-python.tar.gz",
        ),
    ),
    "svhn": (
        File(
            "train_32x32.mat",
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            f"{SVHN}/train_32x32.mat",
        ),
        File(
            "test_32x32.mat",
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            f"{SVHN}/test_32x32.mat",
        ),
    ),
    "mnist": (
        File(
            "MNIST/raw/train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            f"{MNIST}/train-images-idx3-ubyte.gz",
        ),
        File(
            "MNIST/raw/train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            f"{MNIST}/train-labels-idx1-ubyte.gz",
        ),
        File(
            "MNIST/raw/t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            f"{MNIST}/t10k-images-idx3-ubyte.gz",
        ),
        File(
            "MNIST/raw/t10k-labels-idx1-ubyte.gz",
            "f7ae60f92e00ed6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            f"{MNIST}/t10k-labels-idx1-ubyte.gz",
        ),
    ),
}


def read_archives(name: str, data_dir: Path) -> Arrays:
    """The images of a benchmark; raises DataError, or whatever a missing network and a full disk raise."""
    contents = [file.content(data_dir) for file in FILES[name]]
    train, test = READERS[name](*contents)
    return Arrays(*train, *test)


def _cifar(archive: bytes) -> tuple[Labelled, Labelled]:
    """Both sets: batches of a dictionary each, images as rows of 3072 values."""
    batches: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            name, file = Path(member.name).name, tar.extractfile(member)
            if file is not None and (
                name.startswith("data_batch_") or name in ("test_batch", "train", "test")
            ):
                batches[name] = pickle.load(
                    file, encoding="latin1"
                )  # its sha256 is the published one
    tests = [name for name in batches if name.startswith("test")]
    return _joined([batches[name] for name in sorted(batches) if name not in tests]), _joined(
        [batches[name] for name in tests]
    )


def _joined(batches: list[dict[str, Any]]) -> Labelled:
    images = torch.cat([torch.from_numpy(batch["data"]) for batch in batches]).view(-1, 3, 32, 32)
    labels = [
        label
        for batch in batches
        for label in (batch["labels"] if "labels" in batch else batch["fine_labels"])
    ]
    return images, torch.tensor(labels)


def _svhn(*files: bytes) -> tuple[Labelled, Labelled]:
    from scipy.io import loadmat

    train, test = (loadmat(io.BytesIO(content)) for content in files)
    return _house_numbers(train), _house_numbers(test)


def _house_numbers(table: dict[str, Any]) -> Labelled:
    """X is (32, 32, 3, N); the label 10 stands for the digit 0."""
    images = torch.from_numpy(np.ascontiguousarray(table["X"].transpose(3, 2, 0, 1)))
    return images, torch.from_numpy(table["y"].astype(np.int64).reshape(-1) % 10)


def _mnist(*files: bytes) -> tuple[Labelled, Labelled]:
    x_train, y_train, x_test, y_test = (_idx(gzip.decompress(content)) for content in files)
    return (x_train[:, None], y_train.long()), (x_test[:, None], y_test.long())


def _idx(content: bytes) -> Tensor:
    """An array of bytes behind its header: two zeros, the type, the number of dimensions, and each as four bytes."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, 4).tolist()
    return torch.from_numpy(
        np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()
    )


READERS: dict[str, Callable[..., tuple[Labelled, Labelled]]] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "svhn": _svhn,
    "mnist": _mnist,
}
