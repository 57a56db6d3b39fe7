"""The published files: CIFAR-10-C and CIFAR-100-C as arrays, ImageNet-C as folders of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.data import DataInfo, Split
from abatis.data.pictures import open_listing
from abatis.data.stream import StreamSplit
from abatis.errors import DataError, UsageError
from abatis.evaluate.corruptions.published import NAMES, SEVERITIES
from abatis.evaluate.corruptions.sources import CorruptionSource, check_names
from abatis.evaluate.judge import Points

LABELS = "labels.npy"
GROUPS = ("", "noise", "blur", "weather", "digital")  # some downloads sort the corruptions
WNIDS = 1000


def open_files(
    folder: Path, points: Split, info: DataInfo, device: torch.device
) -> CorruptionSource:
    """Open the published files of a data set.

    Args:
        folder: of ``NAME.npy`` and ``labels.npy``, or of ``NAME/SEVERITY/CLASS/FILE``.
        points: the clean images that they belong to.
        info: on the data.
        device: where batches are put.

    Raises:
        UsageError: the folder is not there.
        DataError: it holds no corruptions, or those of other images.
    """
    if not folder.is_dir():
        raise UsageError(
            f"--corruptions: no folder {folder}",
            fix="name the folder of CIFAR-10-C or ImageNet-C; or write --corruptions made",
        )
    if any((folder / f"{name}.npy").is_file() for name in NAMES):
        return CorruptedArrays(folder, points, device)
    return CorruptedFolders(folder, points, info, device)


@dataclass(frozen=True)
class CorruptedArrays:
    """Arrays of 5 times the test set: rows of severity 1 first, each in the order of the set."""

    folder: Path
    points: Split
    device: torch.device
    has_mce: bool = False
    _labels: Any = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        labels = _load(self.folder / LABELS)
        object.__setattr__(self, "_labels", labels)
        rows, last = len(labels) // len(SEVERITIES), int(self.points.index.max())
        mine = torch.from_numpy(np.array(labels[: rows or 1], dtype=np.int64))
        alike = last < rows and torch.equal(mine[self.points.index], self.points.labels.cpu())
        if not alike:
            raise DataError(
                f"the labels of {LABELS} are not those of the test images",
                where=str(self.folder),
                fix="the files must hold the whole test set, in its order, for each severity",
            )

    @property
    def described(self) -> str:
        """In words."""
        return f"files of {self.folder.name}"

    @property
    def left_out(self) -> Mapping[str, str]:
        """Files that are not there."""
        return {
            name: f"{name}.npy is missing"
            for name in NAMES
            if not (self.folder / f"{name}.npy").is_file()
        }

    @property
    def settings(self) -> dict[str, object]:
        """Size and time of every file."""
        paths = [self.folder / f"{name}.npy" for name in NAMES]
        return {"files": _stat(path for path in paths if path.is_file())}

    def corrupt(self, name: str, severity: int) -> Points:
        """See :class:`~abatis.evaluate.corruptions.sources.CorruptionSource`."""
        path = self.folder / f"{name}.npy"
        images = _load(path)
        first = next(iter(self.points.eval_batches(1))).x
        expected = (len(self._labels), first.shape[2], first.shape[3], first.shape[1])
        if images.shape != expected or images.dtype != np.uint8:
            raise DataError(
                f"its array is {images.dtype} {tuple(images.shape)}, not uint8 {expected}",
                where=str(path),
                fix="give the published file",
            )
        start = (severity - 1) * (len(self._labels) // len(SEVERITIES))
        return _Rows(images, self.points.index, self.points.labels, start, self.device)


@dataclass(frozen=True)
class _Rows:
    """Some rows of an array that stays on the disk."""

    images: Any
    index: Tensor
    labels: Tensor
    start: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.index)

    def subset(self, positions: Tensor) -> Points:
        """The points at some positions, (m,) int64."""
        index, labels = self.index[positions], self.labels[positions]
        return _Rows(self.images, index, labels, self.start, self.device)

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """All points in order."""
        parts = zip(self.index.split(batch_size), self.labels.split(batch_size), strict=True)
        for index, y in parts:
            rows = np.ascontiguousarray(self.images[(index + self.start).numpy()])
            x = torch.from_numpy(rows).permute(0, 3, 1, 2).to(self.device).float() / 255
            yield Batch(x.contiguous(), y.to(self.device), index.to(self.device))


@dataclass(frozen=True)
class CorruptedFolders:
    """Folders NAME/SEVERITY/CLASS/FILE, where files have the names of the clean ones."""

    folder: Path
    points: Split
    info: DataInfo
    device: torch.device
    _places: dict[str, Path] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in NAMES:
            for group in GROUPS:
                if (self.folder / group / name / "1").is_dir():
                    self._places[name] = self.folder / group / name
        check_names([*self._places], str(self.folder))
        if self._list_files() is None:
            raise DataError(
                f"{self.info.name} has no file names, by which corrupted images are found",
                where=str(self.folder),
                fix="give the clean images as a folder of class folders",
            )

    @property
    def described(self) -> str:
        """In words."""
        return f"files of {self.folder.name}"

    @property
    def left_out(self) -> Mapping[str, str]:
        """Folders that are not there."""
        return {name: "its folder is missing" for name in NAMES if name not in self._places}

    @property
    def settings(self) -> dict[str, object]:
        """Time of every folder."""
        places = [place / str(one) for place in self._places.values() for one in SEVERITIES]
        return {"files": _stat(place for place in places if place.is_dir())}

    @property
    def has_mce(self) -> bool:
        """Are the classes the thousand of ImageNet?"""
        names = self.info.class_names
        return len(names) == WNIDS and all(
            len(name) == 9 and name[0] == "n" and name[1:].isdecimal() for name in names
        )

    def _list_files(self) -> list[str] | None:
        return self.points.list_files() if isinstance(self.points, StreamSplit) else None

    def corrupt(self, name: str, severity: int) -> Points:
        """See :class:`~abatis.evaluate.corruptions.sources.CorruptionSource`."""
        place = self._places[name] / str(severity)
        files = self._list_files() or []
        names = self.info.class_names or ("",) * self.info.num_classes
        folders = [names[label] for label in self.points.labels.tolist()]
        wanted = [_find(place, Path(file), name) for file, name in zip(files, folders, strict=True)]
        missing = [file for file, path in zip(files, wanted, strict=True) if path is None]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(files)} test images are missing, such as "
                f"{Path(missing[0]).name}",
                where=str(place),
                fix="give the corrupted images of the same test set, or use --points",
            )
        found = [str(path) for path in wanted if path is not None]
        labels = self.points.labels.tolist()
        return open_listing([*zip(found, labels, strict=True)], self.info, self.device)


def _find(place: Path, file: Path, class_name: str) -> Path | None:
    """The corrupted image of a file: of its name, in any image format, in the folder of its class.

    Clean images may lie elsewhere, as in a list: their class then has the name of the folder.
    """
    folders = [place / name for name in (file.parent.name, class_name) if name]
    endings = (file.suffix, ".JPEG", ".jpg", ".jpeg", ".png")
    found = (folder / f"{file.stem}{ending}" for folder in folders for ending in endings)
    return next((path for path in found if path.is_file()), None)


def _load(path: Path) -> Any:
    """An array that stays on the disk; raises DataError."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path.name} cannot be read ({type(error).__name__}: {error})",
            where=str(path),
            fix="download the file again",
        ) from error


def _stat(paths: Iterator[Path]) -> dict[str, list[int]]:
    return {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
