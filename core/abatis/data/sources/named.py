"""Data sets with a name: from an .npz file in the data folder, else from the published files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from abatis.data.arrays import Arrays
from abatis.data.in_memory import open_arrays
from abatis.data.info import Data, DataInfo, require_size, resolve_augment
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.sources.npz import KEYS, NpzFile, open_npz
from abatis.data.sources.published import PublishedFile
from abatis.errors import DataError

Labelled = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""


@dataclass(frozen=True)
class NamedSource(DataSource):
    """A data set that ``--data`` knows by its name.

    Attributes:
        info: its facts, known without its files.
        files: what its authors publish.
        parse: from the contents of these files, in this order, to (training set, test set).
    """

    info: DataInfo
    files: tuple[PublishedFile, ...]
    parse: Callable[..., tuple[Labelled, Labelled]]

    def describe(self, request: DataRequest) -> DataInfo:
        """Its facts, with the augmentation that is asked for; raises UsageError."""
        require_size(self.info.name, self.info.image_size, request.image_size)
        return replace(self.info, augment=resolve_augment(request.augment, self.info.augment))

    def open(self, request: DataRequest) -> Data:
        """The splits in memory; raises DataError, UsageError."""
        info, data_dir = self.describe(request), request.data_dir.expanduser()
        file = data_dir / f"{self.info.name}.npz"
        if file.is_file():
            return self._open_file(file).open(info, request)
        return open_arrays(self.read(data_dir), info, request)

    def _open_file(self, path: Path) -> NpzFile:
        """The images of ``<data_dir>/<name>.npz``; raises DataError where they are others."""
        file = open_npz(path)
        channels, size = file.channels, file.image_size
        same = (channels, size) == (self.info.channels, self.info.image_size)
        if not same or file.num_classes > self.info.num_classes:
            facts = f"{channels} channels, {size} pixels, {file.num_classes} classes"
            raise DataError(
                f"these are not the images of {self.info.name}: {facts}",
                where=str(path),
                fix=f"rename the file, and use it as npz:{path}",
            )
        return file

    def read(self, data_dir: Path) -> Arrays:
        """The images of the published files; those that are missing are downloaded.

        Raises DataError where that fails.
        """
        try:
            train, test = self.parse(*(file.read(data_dir) for file in self.files))
            return Arrays(*train, *test)
        except DataError:
            raise
        except Exception as error:  # no network, no such host, no disk: the way out is the same
            name, reason = self.info.name, " ".join(str(error).split())[:160]
            npz = data_dir / f"{name}.npz"
            raise DataError(
                f"{name} could not be read or downloaded ({type(error).__name__}: {reason})",
                where=f"{data_dir}: neither {npz.name} nor {self.files[0].path}",
                fix=f"save {', '.join(KEYS)} as {npz}, or work offline with --data digits",
            ) from error
