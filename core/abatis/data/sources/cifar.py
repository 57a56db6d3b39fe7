"""cifar10 and cifar100 (Krizhevsky, 2009), from the archives of pickles that the author publishes.

A pickle can run a program when it is opened: the sha256 of an archive is checked first.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import torch

from abatis.data.info import DataInfo
from abatis.data.sources.named import Labelled, NamedSource
from abatis.data.sources.published import PublishedFile
from abatis.data.statistics import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD

URL = "https://www.cs.toronto.edu/~kriz"


def parse_cifar(archive: bytes) -> tuple[Labelled, Labelled]:
    """Both sets: batches of a dictionary each, images as rows of 3072 values."""
    batches: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            name, file = Path(member.name).name, tar.extractfile(member)
            holds_images = name.startswith("data_batch_") or name in ("test_batch", "train", "test")
            if file is not None and holds_images:
                batches[name] = pickle.load(file, encoding="latin1")  # its sha256 was checked
    train = [batches[name] for name in sorted(batches) if not name.startswith("test")]
    test = [batch for name, batch in batches.items() if name.startswith("test")]
    return _join(train), _join(test)


def _join(batches: list[dict[str, Any]]) -> Labelled:
    images = torch.cat([torch.from_numpy(batch["data"]) for batch in batches]).view(-1, 3, 32, 32)
    key = "labels" if "labels" in batches[0] else "fine_labels"
    return images, torch.tensor([label for batch in batches for label in batch[key]])


CIFAR10 = NamedSource(
    DataInfo("cifar10", 10, 3, 32, CIFAR10_MEAN, CIFAR10_STD, "crop-flip"),
    (
        PublishedFile(
            "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            f"{URL}/cifar-10-python.tar.gz",
        ),
    ),
    parse_cifar,
)
CIFAR100 = NamedSource(
    DataInfo("cifar100", 100, 3, 32, CIFAR100_MEAN, CIFAR100_STD, "crop-flip"),
    (
        PublishedFile(
            "cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            f"{URL}/cifar-100-python.tar.gz",
        ),
    ),
    parse_cifar,
)
