"""Encoded images that are read one at a time, wherever they lie, and how they become a split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from abatis.data.decoding import read_rgb, read_size
from abatis.data.info import (
    AREA,
    ASPECT,
    SMALL,
    Data,
    DataInfo,
    View,
    describe_copies,
    join_notes,
    resolve_augment,
    show_some,
)
from abatis.data.order import apply_limit, hold_out
from abatis.data.policy import PolicyView
from abatis.data.request import DataRequest
from abatis.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from abatis.data.stream import StreamSplit, choose_workers
from abatis.errors import DataError
from abatis.system.timm_import import timm, torchvision

COMPARED = 20_000  # images; larger sets are not searched for copies, which would read all files


class Reader(Protocol):
    """Finds the content of an image. It is sent to the loader processes: it holds plain data."""

    def open(self, place: Any) -> str | BinaryIO:
        """The path of an image, or its content as a file; raises DataError."""

    def name(self, place: Any) -> str:
        """What messages and lists of points call an image."""


class Files:
    """Images in files of their own; a place is the path of one."""

    def open(self, place: str) -> str:
        """The path itself."""
        return place

    def name(self, place: str) -> str:
        """The path itself."""
        return place


@dataclass(frozen=True)
class Pictures:
    """Encoded images and their labels.

    Attributes:
        places: where each image lies; what that is, is the reader's.
        labels: (N,) int64 on the CPU.
        reader: finds the content of a place.
    """

    places: Sequence[Any]
    labels: Tensor
    reader: Reader

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What messages call an image."""
        return self.reader.name(self.places[index])

    def names(self) -> list[str]:
        """The names of all images."""
        return [self.reader.name(place) for place in self.places]

    def subset(self, positions: Tensor) -> Pictures:
        """Some of the images, (n,) int64, in that order."""
        places = [self.places[position] for position in positions.tolist()]
        return Pictures(places, self.labels[positions], self.reader)

    def read(self, index: int) -> Image.Image:
        """An image, RGB; raises DataError that names it."""
        place = self.places[index]
        return read_rgb(self.reader.open(place), self.reader.name(place))

    def size(self, index: int) -> tuple[int, int]:
        """Width and height of an image; raises DataError that names it."""
        place = self.places[index]
        return read_size(self.reader.open(place), self.reader.name(place))

    def is_broken(self, index: int) -> bool:
        """Can an image not be read to its end?"""
        try:
            self.read(index)
        except DataError:
            return True
        return False

    def count_bytes(self, index: int) -> int:
        """The length of the encoded image."""
        file = self.reader.open(self.places[index])
        return os.path.getsize(file) if isinstance(file, str) else file.seek(0, os.SEEK_END)

    def digest(self, index: int) -> bytes:
        """The sha256 of the encoded image."""
        file = self.reader.open(self.places[index])
        if not isinstance(file, str):
            return hashlib.sha256(file.read()).digest()
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").digest()


def describe_pictures(
    request: DataRequest, shown: Pictures, classes: Sequence[str], note: str
) -> DataInfo:
    """The facts of encoded images.

    Args:
        request: how to open them.
        shown: the images whose headers are read: one of each class.
        classes: their names in the order of the labels.
        note: what a reader of results must know about them.
    """
    size = (
        request.image_size
        or find_common_size(shown, request.skip_broken)
        or request.view.image_size
    )
    return DataInfo(
        request.spec,
        len(classes),
        3,
        size,
        IMAGENET_MEAN,
        IMAGENET_STD,
        resolve_augment(request.augment, "crop-flip"),
        note,
        request.view.at(size),
        tuple(classes),
    )


def open_pictures(info: DataInfo, train: Pictures, test: Pictures, request: DataRequest) -> Data:
    """The splits of encoded images, which are read during training.

    With ``skip_broken`` every image is read once, and what cannot be read is left out.

    Args:
        info: the facts of the data.
        train: the training images; none where a network is only judged and there are none.
        test: the test images.
        request: how to open them.

    Raises:
        DataError: there are no training images, and the network is to be trained.
    """
    if not len(train) and request.trains:
        raise DataError("there are no training images", where=info.name, fix="add some")
    if request.skip_broken:
        (train, test), note = _leave_out_broken((train, test))
        info = replace(info, note=join_notes(info.note, note))
    info = replace(info, note=join_notes(info.note, _describe_copies(train, test)))
    chosen = apply_limit(request.limit, train.labels, test.labels)
    if len(chosen[0]) < len(train):
        train = train.subset(chosen[0])
    device, workers = request.device, choose_workers(request.workers, len(train))
    return Data(
        info,
        *hold_out(StreamSplit(_Seen(train, info), device, workers), request.validation),
        StreamSplit(_Seen(test, info), device, workers, chosen[1]),
        test_names=test.names,
    )


def open_listing(
    listing: list[tuple[str, int]], info: DataInfo, device: torch.device
) -> StreamSplit:
    """A split of some files and their labels, which are resized and not cropped.

    Args:
        listing: files and labels.
        info: on the data that they belong to.
        device: where batches are put.
    """
    files, labels = [file for file, _ in listing], [label for _, label in listing]
    pictures = Pictures(files, torch.tensor(labels, dtype=torch.int64), Files())
    view = replace(info.view or View(), crop=1.0)
    return StreamSplit(_Seen(pictures, replace(info, view=view)), device, 0)


class _Seen:
    """Reads, crops and resizes images as the facts of the data say."""

    def __init__(self, pictures: Pictures, info: DataInfo) -> None:
        self.pictures, self.labels = pictures, pictures.labels
        assert info.view is not None
        self.size, self.augment, self.view = info.image_size, info.augment, info.view
        self.interpolation = timm.data.transforms.str_to_interp_mode(info.view.interpolation)
        has_policy = bool(info.view.auto_augment or info.view.erasing)
        self.policy = PolicyView(info, info.view) if has_policy else None

    @property
    def files(self) -> list[str] | None:
        """The file of each image; None where images are not files of their own."""
        return self.pictures.names() if isinstance(self.pictures.reader, Files) else None

    def image(self, index: int, train: bool) -> Tensor:
        """(3, size, size) uint8."""
        whole = self.pictures.read(index)
        if train and self.policy is not None:
            return self.policy(whole)
        seen = (
            self._random_crop(whole)
            if train and self.augment != "none"
            else self._central_crop(whole)
        )
        return torch.from_numpy(np.array(seen)).permute(2, 0, 1)

    def _random_crop(self, whole: Image.Image) -> Image.Image:
        transforms = torchvision.transforms
        box = transforms.RandomResizedCrop.get_params(whole, AREA, ASPECT)
        seen: Image.Image = transforms.functional.resized_crop(
            whole, *box, [self.size, self.size], self.interpolation
        )
        mirror = self.augment == "crop-flip" and torch.rand(()) < 0.5
        return transforms.functional.hflip(seen) if mirror else seen

    def _central_crop(self, whole: Image.Image) -> Image.Image:
        functional = torchvision.transforms.functional
        if self.view.resize == "squash":
            whole = functional.resize(whole, [self.size, self.size], self.interpolation)
        elif self.view.resize == "shorter":
            whole = functional.resize(whole, round(self.size / self.view.crop), self.interpolation)
        seen: Image.Image = functional.center_crop(whole, self.size)
        return seen


def find_common_size(pictures: Pictures, skip_broken: bool) -> int | None:
    """The size of one image of each class where it is one small square for all, else None.

    Args:
        pictures: the images.
        skip_broken: use the first image of a class that can be read, where there is one.
    """
    order = pictures.labels.argsort(stable=True)
    counts = pictures.labels.unique(return_counts=True)[1].tolist()
    sizes = set()
    for group in order.split(counts):
        places = group.tolist() if skip_broken else group[:1].tolist()
        readable = (place for place in places if not (skip_broken and pictures.is_broken(place)))
        sizes.add(pictures.size(next(readable, places[0])))
    if len(sizes) != 1:
        return None
    width, height = sizes.pop()
    return width if width == height <= SMALL else None


def _leave_out_broken(parts: Sequence[Pictures]) -> tuple[list[Pictures], str]:
    """The images without those that cannot be read to their end, and a note on these."""
    kept, broken = [], []
    for part in parts:
        bad = [index for index in range(len(part)) if part.is_broken(index)]
        broken += sorted(part.name(index) for index in bad)
        if bad and len(bad) == len(part):
            raise DataError(
                "none of the images can be read", where=broken[0], fix="give a folder of images"
            )
        good = torch.tensor(sorted(set(range(len(part))) - set(bad)), dtype=torch.int64)
        kept.append(part.subset(good) if bad else part)
    note = f"{len(broken)} images cannot be read and are left out: {show_some(broken)}"
    return kept, note if broken else ""


def _describe_copies(train: Pictures, test: Pictures) -> str:
    """A note where test images are exact copies of training images, by their content."""
    if len(train) + len(test) > COMPARED:
        return ""
    lengths = [train.count_bytes(index) for index in range(len(train))]
    there = set(lengths)
    alike = {index: test.count_bytes(index) for index in range(len(test))}
    alike = {index: length for index, length in alike.items() if length in there}
    wanted = set(alike.values())
    known = {train.digest(index) for index, length in enumerate(lengths) if length in wanted}
    copies = [test.name(index) for index in alike if test.digest(index) in known]
    return describe_copies(copies, len(test))
