"""The files of a data set of class folders: the classes in order, images, links among them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from abatis.data.classes import order_classes
from abatis.data.info import show_some
from abatis.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
LAYOUT = "one folder a class: train/cat/1.jpg, train/dog/2.jpg, val/cat/3.jpg, val/dog/4.jpg"


@dataclass(frozen=True)
class ClassFolders:
    """A folder with ``train/<class>/*`` and ``val/<class>/*`` (or test/).

    Attributes:
        root: the folder; it may be a link itself.
        follow_links: read what links lead to outside of ``root``; else they are refused.
    """

    root: Path
    follow_links: bool = False
    _walked: dict[Path, list[str]] = field(default_factory=dict, repr=False, compare=False)

    def find_splits(self) -> tuple[Path, Path, str]:
        """The folders of training and test images, and a note where there is a choice."""
        root = self.root
        if not root.is_dir():
            raise DataError(
                "there is no such folder", where=str(root), fix=f"folder:PATH needs {LAYOUT}"
            )
        there = [name for name in ("train", "val", "test") if (root / name).is_dir()]
        if "train" not in there or len(there) == 1:
            wanted = "train/" if "train" not in there else "val/ (or test/)"
            raise DataError(f"there is no {wanted} in the folder", where=str(root), fix=LAYOUT)
        note = (
            "val/ is used as the test set; test/ exists too and is not read"
            if len(there) == 3
            else ""
        )
        return root / "train", root / there[1], note

    def list_classes(self, part: Path) -> list[str]:
        """The class folders of train/ or val/, in the order of their labels.

        Raises DataError where one holds no image.
        """
        self._check_link(part)
        names = sorted(name for name in os.listdir(part) if not name.startswith("."))
        flat = [name for name in names if _is_image(name) and (part / name).is_file()]
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
            if next(self.list_images(part / name), None) is None:
                raise DataError(
                    f"there is no image in the class folder {name!r}",
                    where=str(part / name),
                    fix=f"add images ({', '.join(SUFFIXES)}) or remove the folder",
                )
        return order_classes(classes)

    def list_images(self, folder: Path) -> Iterator[str]:
        """The image files below a class folder, in a fixed order."""
        return (file for file in self._list_files(folder) if _is_image(file))

    def list_labelled(self, part: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
        """All images of train/ or val/ with their labels, the places in ``classes``.

        Classes take turns; a class without a folder has no images.
        """
        there = ((part / name) for name in classes)
        turns = zip_longest(
            *(self.list_images(folder) if folder.is_dir() else iter(()) for folder in there)
        )
        return [
            (file, label) for turn in turns for label, file in enumerate(turn) if file is not None
        ]

    def refuse_others(self, parts: Sequence[Path]) -> None:
        """Raise DataError where files among the images are not images by their extension."""
        others = [
            file
            for part in parts
            for name in self.list_classes(part)
            for file in self._list_files(part / name)
            if not _is_image(file)
        ]
        if others:
            raise DataError(
                f"{len(others)} files are not images (by extension): {show_some(others)}",
                where=str(self.root),
                fix="move them away, or leave them out with --skip-broken",
            )

    def _list_files(self, folder: Path) -> Sequence[str]:
        """All files below a class folder but hidden ones, in a fixed order; it is walked once."""
        if folder not in self._walked:
            self._check_link(folder)
            self._walked[folder] = list(self._walk(str(folder)))
        return self._walked[folder]

    def _walk(self, folder: str) -> Iterator[str]:
        """The files of a folder, then those of the folders in it; none where it cannot be read."""
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError:
            return
        entries.sort(key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_symlink():
                self._check_link(entry.path)
        inside = [entry.path for entry in entries if entry.is_dir()]
        yield from (entry.path for entry in entries if not entry.is_dir())
        for below in inside:
            yield from self._walk(below)

    def _check_link(self, path: str | Path) -> None:
        """Raise DataError where a path is a link that leaves the folder, or goes in a circle."""
        if not os.path.islink(path):
            return
        target = os.path.realpath(path)
        home = os.path.realpath(self.root)
        inside = Path(target).is_relative_to(home)
        if Path(os.path.realpath(os.path.dirname(path))).is_relative_to(target):
            raise DataError(
                "a link leads to a folder that contains it", where=str(path), fix="remove the link"
            )
        if not inside and not self.follow_links:
            raise DataError(
                f"a link leads out of the data folder, to {target}",
                where=str(path),
                fix="copy the files into the folder, or allow such links with --follow-links",
            )


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)
