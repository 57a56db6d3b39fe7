"""imagenet:PATH and tiny-imagenet:PATH, folders named by WordNet numbers as they are published.

* ``imagenet:`` labels follow the 1,000 sorted numbers, not the folders that are there. So subsets
  (Imagenette) and other images of these classes (V2, A, R, Sketch) keep their ImageNet labels.
* ``tiny-imagenet:`` labels follow the sorted folders of train/; those of val/ are in a list.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from abatis.data.classes import order_classes
from abatis.data.info import Data, DataInfo, join_notes, show_some
from abatis.data.pictures import Files, Pictures, open_pictures
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.sources.class_folders import ClassFolders
from abatis.data.sources.folder import TINY_IMAGENET, read_class_folders
from abatis.data.splits import Chosen, Part, read_splits
from abatis.data.wnids import read_wnids
from abatis.errors import DataError

LAYOUT = "PATH/val/n01440764/*.JPEG, and PATH/train/ alike for training"
TINY_LAYOUT = f"train/n01443537/images/*.JPEG, val/images/*.JPEG and val/{TINY_IMAGENET}"
WNID = re.compile(r"n[0-9]{8}")


class ImagenetSource(DataSource):
    """Folders of wnids, which have the labels of the 1,000 classes."""

    streamed = True

    def describe(self, request: DataRequest) -> DataInfo:
        """From the names of the folders and the headers of one image of each."""
        return _read_imagenet(request)[0]

    def open(self, request: DataRequest) -> Data:
        """The splits; raises DataError."""
        return open_pictures(*_read_imagenet(request), request)


class TinyImagenetSource(DataSource):
    """200 classes of 64x64 pixels, with the test labels in val/val_annotations.txt."""

    streamed = True

    def describe(self, request: DataRequest) -> DataInfo:
        """From the names of the folders, the list, and the headers of one image of each class."""
        return _read_tiny(request)[0]

    def open(self, request: DataRequest) -> Data:
        """The splits; raises DataError."""
        return open_pictures(*_read_tiny(request), request)


def _read_imagenet(request: DataRequest) -> tuple[DataInfo, Pictures, Pictures]:
    root, wnids = request.path, read_wnids()
    folders = ClassFolders(root, request.follow_links)
    _check_root(root)
    train, test = root / "train", _find_test(root)
    if not train.is_dir() and request.trains:
        raise DataError("there is no train/ in the folder", where=str(root), fix=LAYOUT)
    both = [part for part in (train, test) if part.is_dir()]
    if not request.skip_broken:
        folders.refuse_others(both)
    notes: list[str] = []

    def read(parts: tuple[str, ...]) -> Part:
        table = _find_wnids(folders, Path(parts[0]), wnids, notes)
        own = request.class_names  # of a network that knows some of the classes
        classes = own if set(table.values()) <= set(own) <= set(wnids) else wnids
        ordered = sorted(table, key=lambda name: classes.index(table[name]))
        listing = folders.list_labelled(Path(parts[0]), ordered)
        places = torch.tensor([classes.index(table[name]) for name in ordered])
        labels = places[torch.tensor([label for _, label in listing])]
        return Part(Pictures([file for file, _ in listing], labels, Files()), classes)

    chosen = Chosen((str(train),) if train in both else (), (str(test),), "")
    info, *pictures = read_splits(chosen, read, request)
    present = len(pictures[1].labels.unique())
    if present < info.num_classes:
        notes.append(f"{present} of {info.num_classes:,} classes are in the test set")
    info = replace(info, note=join_notes(info.note, *dict.fromkeys(notes)))
    return info, pictures[0], pictures[1]


def _find_wnids(
    folders: ClassFolders, part: Path, wnids: tuple[str, ...], notes: list[str]
) -> dict[str, str]:
    """The wnid of every folder of classes, which has this name or is the number of the class."""
    names = folders.list_classes(part)
    table = {name: name for name in names if name in wnids}
    if all(name.isascii() and name.isdecimal() for name in names):
        table = {name: wnids[int(name)] for name in names if int(name) < len(wnids)}
        notes.append(f"the folders of {part.name}/ are taken as numbers of classes")
    strange = [name for name in names if name not in table]
    if strange or len(set(table.values())) < len(table):
        raise DataError(
            f"{len(strange)} folders are no classes of ImageNet: {show_some(strange)}",
            where=str(part),
            fix="use folder:PATH for other classes",
        )
    return table


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise DataError("there is no such folder", where=str(root), fix=f"it needs {LAYOUT}")


def _find_test(root: Path) -> Path:
    """The folder of the test images: val/, or the folder itself where it holds the classes."""
    for name in ("val", "validation", "test"):
        part = root / name
        if part.is_dir():
            flat = next(part.glob("ILSVRC2012_val_*"), None)
            if flat is not None:
                raise DataError(
                    f"the images of {name}/ are not in folders of classes, so their labels are"
                    " not known",
                    where=str(flat),
                    fix=f"sort them into folders of wnids, as the published script does: {LAYOUT}",
                )
            return part
    if any(WNID.fullmatch(path.name) or path.name.isdecimal() for path in root.iterdir()):
        return root
    raise DataError("there is no val/ in the folder", where=str(root), fix=LAYOUT)


def _read_tiny(request: DataRequest) -> tuple[DataInfo, Pictures, Pictures]:
    root = request.path
    _check_root(root)
    folders = ClassFolders(root, request.follow_links)
    train, val = root / "train", root / "val"
    for part in (train, val):
        if not part.is_dir():
            raise DataError(
                f"there is no {part.name}/ in the folder", where=str(root), fix=TINY_LAYOUT
            )
    classes = order_classes(folders.list_classes(train))

    def read(parts: tuple[str, ...]) -> Part:
        if parts == ("val",):
            return _read_annotated(folders, val)
        return Part(read_class_folders(folders, train, classes), classes)

    chosen = Chosen(("train",), ("val",), "the test set is val/, whose labels are published")
    return read_splits(chosen, read, request)


def _read_annotated(folders: ClassFolders, val: Path) -> Part:
    """The images of val/ with the labels of the list beside them."""
    path = val / TINY_IMAGENET
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
        listed = {row[0]: row[1].strip() for row in rows}
    except (OSError, ValueError, LookupError) as error:
        raise DataError(
            f"the list of labels cannot be read ({type(error).__name__})",
            where=str(path),
            fix=TINY_LAYOUT,
        ) from error
    files = list(folders.list_images(val))
    there = {Path(file).name for file in files}
    odd = sorted(there ^ set(listed))
    if odd or len(listed) < len(rows) or len(there) < len(files):
        raise DataError(
            f"images and list do not fit: {len(files)} images, {len(rows)} lines;"
            f" {show_some(odd) or 'a name occurs twice'}",
            where=str(path),
            fix="unpack the published archive again",
        )
    classes = sorted(set(listed.values()))
    labels = torch.tensor([classes.index(listed[Path(file).name]) for file in files])
    return Part(Pictures(files, labels, Files()), classes)


IMAGENET = ImagenetSource()
TINY = TinyImagenetSource()
