"""torchvision:NAME[:TEST | :TRAIN,TEST], data sets whose published files torchvision reads.

The images are those of torchvision, in its order and with its labels; they are decoded here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from abatis.data.info import Data, DataInfo, show_some
from abatis.data.pictures import Files, Pictures, open_pictures
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.splits import Part, choose_splits, cut_splits, read_splits
from abatis.errors import DataError, UsageError, did_you_mean
from abatis.system.timm_import import torchvision

WHOLE = "all"  # the split of a data set that is published without splits
SIZES = ("full", "320px", "160px")  # of Imagenette


@dataclass(frozen=True)
class Published:
    """How torchvision names the splits of a data set.

    Attributes:
        splits: their names; those that are used unasked come first.
        key: the argument that takes a name; empty where there are no splits.
        note: what a reader of results must know.
    """

    splits: tuple[str, ...] = (WHOLE,)
    key: str = "split"
    note: str = ""


SETS = {
    "Country211": Published(("train", "valid", "test")),
    "DTD": Published(("train", "val", "test"), note="partition 1 of 10"),
    "EuroSAT": Published(key=""),
    "FGVCAircraft": Published(("train", "val", "test", "trainval")),
    "FashionMNIST": Published(("train", "test"), key="train"),
    "Flowers102": Published(("train", "val", "test")),
    "Food101": Published(("train", "test")),
    "GTSRB": Published(("train", "test")),
    "Imagenette": Published(("train", "val")),
    "OxfordIIITPet": Published(("trainval", "test")),
    "RenderedSST2": Published(("train", "val", "test")),
    "STL10": Published(("train", "test")),
    "StanfordCars": Published(("train", "test")),
    "SUN397": Published(key=""),
}
LISTS = (
    ("_image_files", "_labels"),
    ("_images", "_labels"),
    ("data", "targets"),
    ("data", "labels"),
)
PAIRS = ("_samples", "samples")
"""The attributes in which torchvision keeps images and labels, or pairs of both."""


class TorchvisionSource(DataSource):
    """Data sets by the names of torchvision's classes."""

    streamed = True
    takes = frozenset({"test_share"})

    def describe(self, request: DataRequest) -> DataInfo:
        """From the lists of files and the headers of one image of each class."""
        return _read(request)[0]

    def open(self, request: DataRequest) -> Data:
        """The splits; raises DataError, UsageError."""
        return open_pictures(*_read(request), request)


def _read(request: DataRequest) -> tuple[DataInfo, Pictures, Pictures]:
    name, asked = cut_splits(request.place)
    if name not in SETS:
        raise UsageError(
            f"torchvision:{name}: {did_you_mean(name, SETS)}", fix=f"use one of {', '.join(SETS)}"
        )
    published = SETS[name]
    chosen = choose_splits(asked, published.splits, request)

    def read(splits: tuple[str, ...]) -> Part:
        parts = [_open(name, published, split, request) for split in splits]
        return _join(parts, request)

    return read_splits(chosen, read, request, published.note)


def _open(name: str, published: Published, split: str, request: DataRequest) -> Part:
    """One split, as torchvision lists it."""
    options: dict[str, Any] = {"root": str(request.data_dir.expanduser())}
    if published.key:
        options[published.key] = split == "train" if published.key == "train" else split
    if name == "Imagenette":
        options["size"] = _find_size(request)
    make = getattr(torchvision.datasets, name)
    try:
        found = make(**options, download=request.download)
    except Exception as error:  # missing, damaged, without its reader, or no network
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise DataError(
            f"torchvision cannot open {name} ({reason})",
            where=options["root"],
            fix="put the published files there as torchvision does, name another folder with"
            " --data-dir, or add --download",
        ) from error
    return _list_images(name, split, found)


def _find_size(request: DataRequest) -> str:
    """The size of Imagenette that is there."""
    folders = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}
    there = [size for size in SIZES if (request.data_dir.expanduser() / folders[size]).is_dir()]
    return (there or list(SIZES))[0]


def _list_images(name: str, split: str, found: Any) -> Part:
    images, labels = _find_lists(name, found)
    if name == "GTSRB" and split == "train":
        _check_numbers(images, labels)
    classes = getattr(found, "wnids", None) or getattr(found, "classes", None) or ()
    classes = [item if isinstance(item, str) else ", ".join(item) for item in classes]
    if isinstance(images[0], str | Path):
        files = [str(file) for file in images]
        missing = [file for file in files if not os.path.exists(file)]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(files)} images of {name} are missing: "
                f"{Path(missing[0]).name}, ...",
                where=missing[0],
                fix="unpack the published archive again",
            )
        if name == "SUN397":  # torchvision lists them as the disk does
            pairs = sorted(zip(files, labels, strict=True))
            files, labels = [file for file, _ in pairs], [label for _, label in pairs]
        pictures = Pictures(files, torch.tensor(labels, dtype=torch.int64), Files())
    else:
        reader = _Arrays(np.asarray(images), f"{name} {split}")
        pictures = Pictures(range(len(labels)), torch.tensor(labels), reader)
    return Part(pictures, classes)


def _check_numbers(files: Sequence[str], labels: Sequence[int]) -> None:
    """Raise DataError where a folder's place is not its number, as in a set without some classes.

    torchvision numbers the training folders of GTSRB by their places, and the test images by the
    published numbers.
    """
    for file, label in zip(files, labels, strict=True):
        if Path(file).parent.name != f"{label:05d}":
            raise DataError(
                f"a class is missing: the folder {Path(file).parent.name} would get label {label}",
                where=str(Path(file).parents[1]),
                fix="unpack the published archive again",
            )


def _find_lists(name: str, found: Any) -> tuple[Sequence[Any], list[int]]:
    """Images and labels; raises DataError where this torchvision keeps others than it yields."""
    images: Sequence[Any] = ()
    labels: list[int] = []
    for one, other in LISTS:
        if hasattr(found, one) and hasattr(found, other):
            images, labels = getattr(found, one), [int(label) for label in getattr(found, other)]
            break
    for pairs in PAIRS:
        if not labels and hasattr(found, pairs):
            images = [image for image, _ in getattr(found, pairs)]
            labels = [int(label) for _, label in getattr(found, pairs)]
    ends = (0, len(labels) - 1) if labels else ()
    same = len(images) == len(labels) == len(found)
    if not labels or not same or any(int(found[end][1]) != labels[end] for end in ends):
        raise DataError(
            f"torchvision {torchvision.__version__} keeps the images of {name} in an unknown form",
            fix="give them as folder:PATH or csv:FILE",
        )
    return images, labels


class _Arrays:
    """Images that torchvision holds in memory, as files without compression."""

    def __init__(self, images: np.ndarray[Any, Any], name: str) -> None:
        self.images, self.label = images, name

    def open(self, place: int) -> io.BytesIO:
        """The image as a BMP file."""
        image = self.images[place]
        if image.ndim == 3 and image.shape[0] == 3:
            image = image.transpose(1, 2, 0)
        content = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(content, "BMP")
        content.seek(0)
        return content

    def name(self, place: int) -> str:
        """The name of the set and the number of the image."""
        return f"{self.label}, image {place}"


def _join(parts: Sequence[Part], request: DataRequest) -> Part:
    """Several splits as one."""
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part.pictures.reader, _Arrays) for part in parts) or any(
        list(part.classes) != list(parts[0].classes) for part in parts
    ):
        raise DataError(
            f"the splits cannot be joined: their classes are {show_some(parts[0].classes)} and"
            f" {show_some(parts[1].classes)}",
            where=request.spec,
            fix="name one split",
        )
    places = [place for part in parts for place in part.pictures.places]
    labels = torch.cat([part.pictures.labels for part in parts])
    return Part(Pictures(places, labels, Files()), parts[0].classes)


TORCHVISION = TorchvisionSource()
