"""Arrays of an .npz file: shapes from their headers, rows in blocks, so that a file may be larger
than the memory.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

TOGETHER = 4 * 2**20  # bytes that are read at once

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class NpzArray:
    """One array of a file, of which only the header has been read.

    Attributes:
        path: the file.
        name: of the array.
        shape: as numpy gives it.
        dtype: likewise.
        by_rows: does one row follow the other? Not in an array in column order.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_rows: bool

    def read(self) -> Array:
        """The whole array; raises ValueError or an error of zipfile or zlib."""
        with zipfile.ZipFile(self.path) as archive, _open(archive, self.name) as file:
            found: Array = np.lib.format.read_array(file, allow_pickle=False)
            return found

    def read_blocks(self) -> Iterator[tuple[int, Array]]:
        """The number of its first row, and some rows, for all rows in order.

        A block lasts until the next one is asked for. The checksum is verified with the last one.
        Raises ValueError or an error of zipfile or zlib.
        """
        if not self.by_rows:
            yield 0, np.ascontiguousarray(self.read())
            return
        row = math.prod(self.shape[1:])
        count = min(len(self), max(1, TOGETHER // max(1, row * self.dtype.itemsize)))
        block = np.empty((count, *self.shape[1:]), self.dtype)
        with zipfile.ZipFile(self.path) as archive, _open(archive, self.name) as file:
            _read_header(file)
            for start in range(0, len(self), max(1, count)):
                rows = block[: len(self) - start]
                if file.readinto(rows.reshape(-1).view(np.uint8)) != rows.nbytes:
                    raise ValueError(f"{self.name} ends after fewer than {len(self)} rows")
                yield start, rows

    def __len__(self) -> int:
        return self.shape[0]


def read_headers(path: Path, names: Sequence[str]) -> tuple[Mapping[str, NpzArray], list[str]]:
    """Those of some arrays that a file has, and the names of all of its arrays.

    Raises ValueError for arrays of Python objects, and errors of zipfile and zlib.
    """
    with zipfile.ZipFile(path) as archive:
        there = [name.removesuffix(".npy") for name in archive.namelist()]
        return {name: _read_one(archive, path, name) for name in names if name in there}, there


def _read_one(archive: zipfile.ZipFile, path: Path, name: str) -> NpzArray:
    with _open(archive, name) as file:
        shape, by_columns, dtype = _read_header(file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which need allow_pickle=True")
    by_rows = bool(shape) and (len(shape) == 1 or not by_columns)
    return NpzArray(path, name, shape, dtype, by_rows)


def _open(archive: zipfile.ZipFile, name: str) -> Any:
    """A member for reading; numpy adds the suffix, other writers may not."""
    member = f"{name}.npy"
    return archive.open(member if member in archive.NameToInfo else name)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in column order, and type of the array that follows."""
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    return read(file)
