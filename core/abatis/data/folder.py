"""Images in folders: PATH/train/<class>/* and PATH/val/<class>/* (or test/)."""

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

from abatis.data.info import AREA, ASPECT, SMALL, Data, DataInfo, View, resolve_augment
from abatis.data.order import hold_out, limited
from abatis.data.policy import PolicyView
from abatis.data.stream import StreamSplit
from abatis.errors import DataError
from abatis.system.timm_import import timm, torchvision

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
LAYOUT = "one folder a class: train/cat/1.jpg, train/dog/2.jpg, val/cat/3.jpg, val/dog/4.jpg"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
LONGEST = 100  # times the shorter side: beyond it, resizing would blow an image up
DEFAULT = View()


def folder_info(
    name: str,
    root: Path,
    image_size: int | None,
    augment: str,
    skip_broken: bool = False,
    view: View = DEFAULT,
) -> DataInfo:
    """The facts, from the names of the class folders and the headers of one image each. Raises DataError."""
    train, test, note = _layout(root)
    if not skip_broken:
        _refuse_others([train, test])
    classes = _classes(train)
    strange = sorted(set(_classes(test)) - set(classes))
    if strange:
        raise DataError(
            f"{len(strange)} class folders of {test.name}/ are not in train/: {', '.join(strange[:5])}",
            where=str(root),
            fix=f"give both the same class folders; train/ has {', '.join(classes[:5])}{', ...' * (len(classes) > 5)}",
        )
    size = (
        image_size
        or _common_size([_first(train / name, skip_broken) for name in classes])
        or view.image_size
    )
    resolved = resolve_augment(augment, "crop-flip")
    return DataInfo(
        name, len(classes), 3, size, MEAN, STD, resolved, note, view.at(size), tuple(classes)
    )


def open_folder(
    name: str,
    root: Path,
    limit: int | None,
    image_size: int | None,
    augment: str,
    device: torch.device,
    workers: int,
    skip_broken: bool = False,
    view: View = DEFAULT,
) -> Data:
    """The splits. Classes take turns in the order of the images, so that the first N of them are of all classes.

    skip_broken: read every image once, and leave out what is none. Raises DataError.
    """
    info = folder_info(name, root, image_size, augment, skip_broken, view)
    train, test, _ = _layout(root)
    classes = _classes(train)
    listings = [_listing(part, classes) for part in (train, test)]
    if skip_broken:
        listings, note = _without_broken(listings)
        info = replace(info, note="; ".join(text for text in (info.note, note) if text))
    counts = limited(limit, *map(len, listings))
    sources = [
        _FolderSource(pairs[:count], info) for pairs, count in zip(listings, counts, strict=True)
    ]
    training, testing = (StreamSplit(source, device, workers) for source in sources)
    return Data(info, *hold_out(training), testing)


class _FolderSource:
    """Reads, crops and resizes the images of some files."""

    def __init__(self, listing: list[tuple[str, int]], info: DataInfo) -> None:
        self.files = [file for file, _ in listing]
        self.labels = torch.tensor([label for _, label in listing])
        self.size, self.augment, self.view = info.image_size, info.augment, info.view
        self.interpolation = timm.data.transforms.str_to_interp_mode(info.view.interpolation)
        self.policy = PolicyView(info) if info.view.auto_augment or info.view.erasing else None

    def image(self, index: int, train: bool) -> Tensor:
        """(3, size, size) uint8."""
        with _opened(self.files[index]) as image:
            whole = _rgb(image)
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
def _opened(file: str) -> Iterator[Image.Image]:
    """An image file, for reading; whatever goes wrong inside is a DataError that names it."""
    try:
        with Image.open(file) as image:
            if max(image.size) > LONGEST * min(image.size):
                raise ValueError(f"{image.width} x {image.height} pixels")
            if image.mode in ("I", "F"):  # it is not known which value is white
                raise ValueError("pixels of 32 bits")
            yield image
    except Exception as error:  # decoders raise whatever they like; it is the file in every case
        raise DataError(
            f"an image cannot be read ({type(error).__name__}: {error})",
            where=file,
            fix="repair or remove the file, or leave out what cannot be read: --skip-broken",
        ) from error


def _rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel. Pillow would cut 16 bits off at 255 instead of scaling them."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(
            (np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8)
        )
    return image.convert("RGB")


def _without_broken(
    listings: list[list[tuple[str, int]]],
) -> tuple[list[list[tuple[str, int]]], str]:
    """The listings without the files that cannot be read to their end, and a sentence that counts and names them."""
    kept = [[pair for pair in listing if not _is_broken(pair[0])] for listing in listings]
    broken = [
        file
        for before, after in zip(listings, kept, strict=True)
        for file, _ in sorted({*before} - {*after})
    ]
    if any(not listing for listing in kept):
        raise DataError("no image can be read", where=broken[0], fix="this is no folder of images")
    return (
        kept,
        f"{len(broken)} images cannot be read and are left out: {_some(broken)}" if broken else "",
    )


def _is_broken(file: str) -> bool:
    try:
        with _opened(file) as image:
            image.load()
    except DataError:
        return True
    return False


def _first(folder: Path, skip_broken: bool) -> str:
    """An image of a class folder, one that can be read where broken ones are to be left out."""
    files = (file for file in _images(folder) if not (skip_broken and _is_broken(file)))
    return next(files, None) or next(_images(folder))


def _refuse_others(parts: list[Path]) -> None:
    """Raise DataError where files lie among the images that are none by their names."""
    others = [
        file
        for part in parts
        for name in _classes(part)
        for file in _files(part / name)
        if not file.lower().endswith(SUFFIXES)
    ]
    if others:
        raise DataError(
            f"{len(others)} files among the images are none by their names: {_some(others)}",
            where=str(parts[0].parent),
            fix="move them away, or leave them out: --skip-broken",
        )


def _some(files: list[str]) -> str:
    return ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")


def _layout(root: Path) -> tuple[Path, Path, str]:
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
        "val/ is the test set here; test/ is there too and is not read" if len(there) == 3 else ""
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


def _listing(part: Path, classes: list[str]) -> list[tuple[str, int]]:
    """All files with their labels, classes taking turns."""
    turns = zip_longest(*(_images(part / name) for name in classes))
    return [(file, label) for turn in turns for label, file in enumerate(turn) if file is not None]


def _common_size(files: list[str]) -> int | None:
    """The size of all these images where it is one small square, else None."""
    sizes = set()
    for file in files:
        with _opened(file) as image:
            sizes.add(image.size)
    width, height = sizes.pop()
    return width if not sizes and width == height <= SMALL else None
