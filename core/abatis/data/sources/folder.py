"""folder:PATH, images in class folders: PATH/train/<class>/* and PATH/val/<class>/* (or test/)."""

from __future__ import annotations

from pathlib import Path

import torch

from abatis.data.classes import name_classes
from abatis.data.info import Data, DataInfo, join_notes, show_some
from abatis.data.pictures import Files, Pictures, describe_pictures, open_pictures
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.sources.class_folders import ClassFolders
from abatis.errors import DataError

TINY_IMAGENET = "val_annotations.txt"


class FolderSource(DataSource):
    """Image files, which are read during training."""

    streamed = True

    def describe(self, request: DataRequest) -> DataInfo:
        """From the names of the class folders and the headers of one image each."""
        return _read(request)[0]

    def open(self, request: DataRequest) -> Data:
        """The splits. Classes take turns."""
        return open_pictures(*_read(request), request)

    def matches(self, path: Path) -> bool:
        """Is it a folder?"""
        return path.is_dir()


def _read(request: DataRequest) -> tuple[DataInfo, Pictures, Pictures]:
    """The facts, and the images of both splits."""
    if (request.path / "val" / TINY_IMAGENET).is_file():
        raise DataError(
            "val/ has the labels of its images in a list, as Tiny ImageNet is published",
            where=str(request.path),
            fix=f"write tiny-imagenet:{request.place}",
        )
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
    classes, order = name_classes(found, request.class_names)
    parts = [read_class_folders(folders, part, classes) for part in (train, test)]
    info = describe_pictures(request, parts[0], classes, join_notes(note, order))
    return info, parts[0], parts[1]


def read_class_folders(folders: ClassFolders, part: Path, classes: list[str]) -> Pictures:
    """The images of train/ or val/; a label is the place of the folder's name in ``classes``."""
    listing = folders.list_labelled(part, classes)
    labels = torch.tensor([label for _, label in listing], dtype=torch.int64)
    return Pictures([file for file, _ in listing], labels, Files())


FOLDER = FolderSource()
