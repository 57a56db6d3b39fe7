"""folder:PATH, images in class folders: PATH/train/<class>/* and PATH/val/<class>/* (or test/)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from abatis.data.info import AREA, ASPECT, SMALL, Data, DataInfo, resolve_augment
from abatis.data.order import apply_limit, hold_out
from abatis.data.policy import PolicyView
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from abatis.data.stream import StreamSplit
from abatis.errors import DataError
from abatis.system.timm_import import timm, torchvision

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
LAYOUT = "one folder a class: train/cat/1.jpg, train/dog/2.jpg, val/cat/3.jpg, val/dog/4.jpg"
LONGEST = 100  # times the shorter side: beyond it, resizing would need too much memory


class FolderSource(DataSource):
    """Image files, which are read during training."""

    streamed = True

    def describe(self, request: DataRequest) -> DataInfo:
        """From the names of the class folders and the headers of one image each."""
        root = request.path
        train, test, note = _find_splits(root)
        if not request.skip_broken:
            _refuse_others([train, test])
        classes = _classes(train)
        strange = sorted(set(_classes(test)) - set(classes))
        if strange:
            some = ", ".join(classes[:5]) + ", ..." * (len(classes) > 5)
            raise DataError(
                f"{len(strange)} class folders of {test.name}/ are not in train/: "
                f"{', '.join(strange[:5])}",
                where=str(root),
                fix=f"give both the same class folders; train/ has {some}",
            )
        first = [_first(train / name, request.skip_broken) for name in classes]
        size = request.image_size or _common_size(first) or request.view.image_size
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

    def open(self, request: DataRequest) -> Data:
        """The splits. Classes take turns.

        With ``skip_broken`` every image is read once, and what cannot be read is left out.
        """
        info = self.describe(request)
        train, test, _ = _find_splits(request.path)
        classes = _classes(train)
        listings = [_list_files(part, classes) for part in (train, test)]
        if request.skip_broken:
            listings, note = _leave_out_broken(listings)
            info = replace(info, note="; ".join(text for text in (info.note, note) if text))
        labels = (torch.tensor([label for _, label in listing]) for listing in listings)
        chosen = apply_limit(request.limit, *labels)
        training = _ImageFiles([listings[0][place] for place in chosen[0].tolist()], info)
        testing = _ImageFiles(listings[1], info)
        device, workers = request.device, request.workers
        return Data(
            info,
            *hold_out(StreamSplit(training, device, workers)),
            StreamSplit(testing, device, workers, chosen[1]),
        )

    def matches(self, path: Path) -> bool:
        """Is it a folder?"""
        return path.is_dir()


class _ImageFiles:
    """Reads, crops and resizes the images of some files."""

    def __init__(self, listing: list[tuple[str, int]], info: DataInfo) -> None:
        self.files = [file for file, _ in listing]
        self.labels = torch.tensor([label for _, label in listing])
        assert info.view is not None
        self.size, self.augment, self.view = info.image_size, info.augment, info.view
        self.interpolation = timm.data.transforms.str_to_interp_mode(info.view.interpolation)
        has_policy = bool(info.view.auto_augment or info.view.erasing)
        self.policy = PolicyView(info, info.view) if has_policy else None

    def image(self, index: int, train: bool) -> Tensor:
        """(3, size, size) uint8."""
        with _open_image(self.files[index]) as image:
            whole = _to_rgb(image)
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
        shorter = round(self.size / self.view.crop)
        seen: Image.Image = functional.center_crop(
            functional.resize(whole, shorter, self.interpolation), self.size
        )
        return seen


@contextmanager
def _open_image(file: str) -> Iterator[Image.Image]:
    """An image file, for reading; whatever fails inside is a DataError that names the file."""
    try:
        with Image.open(file) as image:
            if max(image.size) > LONGEST * min(image.size):
                raise ValueError(f"{image.width} x {image.height} pixels: too elongated")
            if image.mode in ("I", "F"):  # which value is white is not known
                raise ValueError("32 bits a channel are not supported")
            yield image
    except Exception as error:  # decoders raise whatever they like; it is the file in every case
        raise DataError(
            f"an image cannot be read ({type(error).__name__}: {error})",
            where=file,
            fix="repair or remove the file, or leave out such files with --skip-broken",
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel. Pillow would cut 16 bits off at 255 instead of scaling them."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(
            (np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8)
        )
    return image.convert("RGB")


def _leave_out_broken(
    listings: list[list[tuple[str, int]]],
) -> tuple[list[list[tuple[str, int]]], str]:
    """The listings without the files that cannot be read to their end, and a note on these."""
    kept = [[pair for pair in listing if not _is_broken(pair[0])] for listing in listings]
    broken = [
        file
        for before, after in zip(listings, kept, strict=True)
        for file, _ in sorted({*before} - {*after})
    ]
    if any(not listing for listing in kept):
        raise DataError(
            "none of the images can be read", where=broken[0], fix="give a folder of images"
        )
    note = f"{len(broken)} images cannot be read and are left out: {_some(broken)}"
    return kept, note if broken else ""


def _is_broken(file: str) -> bool:
    try:
        with _open_image(file) as image:
            image.load()
    except DataError:
        return True
    return False


def _first(folder: Path, skip_broken: bool) -> str:
    """The first image of a class folder, or the first readable one with ``skip_broken``."""
    files = (file for file in _images(folder) if not (skip_broken and _is_broken(file)))
    return next(files, None) or next(_images(folder))


def _refuse_others(parts: list[Path]) -> None:
    """Raise DataError where files lie among the images that are not images by their extension."""
    others = [
        file
        for part in parts
        for name in _classes(part)
        for file in _files(part / name)
        if not file.lower().endswith(SUFFIXES)
    ]
    if others:
        raise DataError(
            f"{len(others)} files are not images (by extension): {_some(others)}",
            where=str(parts[0].parent),
            fix="move them away, or leave them out with --skip-broken",
        )


def _some(files: list[str]) -> str:
    return ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")


def _find_splits(root: Path) -> tuple[Path, Path, str]:
    """The folders of training and test images, and a note where there is a choice."""
    if not root.is_dir():
        raise DataError(
            "there is no such folder", where=str(root), fix=f"folder:PATH needs {LAYOUT}"
        )
    there = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if "train" not in there or len(there) == 1:
        wanted = "train/" if "train" not in there else "val/ (or test/)"
        raise DataError(f"there is no {wanted} in the folder", where=str(root), fix=LAYOUT)
    note = (
        "val/ is used as the test set; test/ exists too and is not read" if len(there) == 3 else ""
    )
    return root / "train", root / there[1], note


def _classes(part: Path) -> list[str]:
    """The class folders of train/ or val/, sorted; each holds an image."""
    names = sorted(name for name in os.listdir(part) if not name.startswith("."))
    flat = [name for name in names if name.lower().endswith(SUFFIXES) and (part / name).is_file()]
    if flat:
        raise DataError(
            f"{len(flat)} images lie in {part.name}/ itself, not in class folders",
            where=str(part),
            fix=LAYOUT,
        )
    classes = [name for name in names if (part / name).is_dir()]
    if not classes:
        raise DataError(f"there are no images in {part.name}/", where=str(part), fix=LAYOUT)
    for name in classes:
        if next(_images(part / name), None) is None:
            raise DataError(
                f"there is no image in the class folder {name!r}",
                where=str(part / name),
                fix=f"add images ({', '.join(SUFFIXES)}) or remove the folder",
            )
    return classes


def _images(folder: Path) -> Iterator[str]:
    """The image files below a class folder, in a fixed order."""
    return (file for file in _files(folder) if file.lower().endswith(SUFFIXES))


def _files(folder: Path) -> Iterator[str]:
    """All files below a class folder but hidden ones, in a fixed order."""
    for below, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(below, name) for name in sorted(names) if not name.startswith("."))


def _list_files(part: Path, classes: list[str]) -> list[tuple[str, int]]:
    """All files with their labels, classes taking turns."""
    turns = zip_longest(*(_images(part / name) for name in classes))
    return [(file, label) for turn in turns for label, file in enumerate(turn) if file is not None]


def _common_size(files: list[str]) -> int | None:
    """The size of all these images where it is one small square, else None."""
    sizes = set()
    for file in files:
        with _open_image(file) as image:
            sizes.add(image.size)
    width, height = sizes.pop()
    return width if not sizes and width == height <= SMALL else None


FOLDER = FolderSource()
