"""folder:PATH, images in class folders: PATH/train/<class>/* and PATH/val/<class>/* (or test/)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from abatis.data.info import AREA, ASPECT, SMALL, Data, DataInfo, View, resolve_augment
from abatis.data.order import apply_limit, hold_out
from abatis.data.policy import PolicyView
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.sources.class_folders import ClassFolders, describe_order, show_some
from abatis.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from abatis.data.stream import StreamSplit
from abatis.errors import DataError
from abatis.system.timm_import import timm, torchvision

LONGEST = 100  # times the shorter side: beyond it, resizing would need too much memory


class FolderSource(DataSource):
    """Image files, which are read during training."""

    streamed = True

    def describe(self, request: DataRequest) -> DataInfo:
        """From the names of the class folders and the headers of one image each."""
        folders = ClassFolders(request.path, request.follow_links)
        train, test, note = folders.find_splits()
        if not request.skip_broken:
            folders.refuse_others([train, test])
        found = folders.list_classes(train)
        strange = sorted(set(folders.list_classes(test)) - set(found))
        if strange:
            raise DataError(
                f"{len(strange)} class folders of {test.name}/ are not in train/: "
                f"{', '.join(strange[:5])}",
                where=str(request.path),
                fix=f"give both the same class folders; train/ has {show_some(found)}",
            )
        first = [_first(folders, train / name, request.skip_broken) for name in found]
        size = request.image_size or _common_size(first) or request.view.image_size
        classes, order = _name_classes(found, request.class_names)
        return DataInfo(
            request.spec,
            len(classes),
            3,
            size,
            IMAGENET_MEAN,
            IMAGENET_STD,
            resolve_augment(request.augment, "crop-flip"),
            "; ".join(text for text in (note, order) if text),
            request.view.at(size),
            tuple(classes),
        )

    def open(self, request: DataRequest) -> Data:
        """The splits. Classes take turns.

        With ``skip_broken`` every image is read once, and what cannot be read is left out.
        """
        info = self.describe(request)
        folders = ClassFolders(request.path, request.follow_links)
        train, test, _ = folders.find_splits()
        listings = [folders.list_labelled(part, info.class_names) for part in (train, test)]
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
            *hold_out(StreamSplit(training, device, workers), request.validation),
            StreamSplit(testing, device, workers, chosen[1]),
        )

    def matches(self, path: Path) -> bool:
        """Is it a folder?"""
        return path.is_dir()


def open_listing(
    listing: list[tuple[str, int]], info: DataInfo, device: torch.device
) -> StreamSplit:
    """A split of some files and their labels, which are resized and not cropped.

    Args:
        listing: files and labels.
        info: on the data that they belong to.
        device: where batches are put.
    """
    view = replace(info.view or View(), crop=1.0)
    return StreamSplit(_ImageFiles(listing, replace(info, view=view)), device, 0)


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
    note = f"{len(broken)} images cannot be read and are left out: {show_some(broken)}"
    return kept, note if broken else ""


def _is_broken(file: str) -> bool:
    try:
        with _open_image(file) as image:
            image.load()
    except DataError:
        return True
    return False


def _name_classes(found: list[str], wanted: tuple[str, ...]) -> tuple[list[str], str]:
    """The classes in the order of their labels, and a note where that order could be doubted.

    Args:
        found: the class folders in their own order.
        wanted: the classes of a network; they give the order where they hold all that are found.
    """
    if not set(found) <= set(wanted) or len(set(wanted)) < len(wanted):
        return found, describe_order(found)
    if found == list(wanted):
        return found, ""
    note = "labels are matched by name to the classes of the network"
    if len(found) < len(wanted):
        note += f"; {len(wanted) - len(found)} of its {len(wanted)} classes have no folder"
    return list(wanted), note


def _first(folders: ClassFolders, folder: Path, skip_broken: bool) -> str:
    """The first image of a class folder, or the first readable one with ``skip_broken``."""
    files = (file for file in folders.list_images(folder) if not (skip_broken and _is_broken(file)))
    return next(files, None) or next(folders.list_images(folder))


def _common_size(files: list[str]) -> int | None:
    """The size of all these images where it is one small square, else None."""
    sizes = set()
    for file in files:
        with _open_image(file) as image:
            sizes.add(image.size)
    width, height = sizes.pop()
    return width if not sizes and width == height <= SMALL else None


FOLDER = FolderSource()
