"""csv:FILE[:TEST | :TRAIN,TEST], a table of image paths, labels and splits."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from abatis.data.classes import order_classes
from abatis.data.info import Data, DataInfo, show_some
from abatis.data.pictures import Files, Pictures, open_pictures
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.splits import Part, choose_splits, cut_splits, read_splits
from abatis.errors import DataError

IMAGE = ("path", "image", "file", "filename", "file_name", "filepath", "image_path", "img")
LABEL = ("label", "class", "target", "category", "class_name", "labels", "y")
SPLIT = ("split", "subset", "partition", "set", "fold")
FORM = "the first line names the columns: path,label,split; paths count from the table's folder"
WHOLE = "all"  # the split of a table without such a column


@dataclass(frozen=True)
class Table:
    """The rows of a table.

    Attributes:
        files: the path of each image.
        labels: of each image, as text.
        splits: of each image.
    """

    files: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]


class CsvSource(DataSource):
    """A table that lists images."""

    streamed = True
    takes = frozenset({"image", "label", "test_share"})

    def describe(self, request: DataRequest) -> DataInfo:
        """From the table, and the header of one image of each class."""
        return _read(request)[0]

    def open(self, request: DataRequest) -> Data:
        """The splits; raises DataError."""
        return open_pictures(*_read(request), request)

    def matches(self, path: Path) -> bool:
        """Is it a table by its name?"""
        return path.suffix in (".csv", ".tsv")


def _read(request: DataRequest) -> tuple[DataInfo, Pictures, Pictures]:
    place, asked = cut_splits(request.place)
    path = Path(place).expanduser()
    table = _read_table(path, request)
    chosen = choose_splits(asked, list(dict.fromkeys(table.splits)), request)
    numbered = all(label.isascii() and label.isdecimal() for label in table.labels)

    def read(splits: tuple[str, ...]) -> Part:
        rows = [row for row, split in enumerate(table.splits) if split in splits]
        files, labels = ([column[row] for row in rows] for column in (table.files, table.labels))
        if numbered:
            numbers = torch.tensor([int(label) for label in labels], dtype=torch.int64)
            return Part(Pictures(files, numbers, Files()))
        classes = order_classes(list(set(labels)))
        places = {name: place for place, name in enumerate(classes)}
        numbers = torch.tensor([places[label] for label in labels], dtype=torch.int64)
        return Part(Pictures(files, numbers, Files()), classes)

    return read_splits(chosen, read, request)


def _read_table(path: Path, request: DataRequest) -> Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)
            reader = csv.DictReader(file, delimiter=delimiter)
            names = list(reader.fieldnames or [])
            rows = [row for row in reader if any(row.values())]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"the table cannot be read ({type(error).__name__}: {error})", where=str(path), fix=FORM
        ) from error
    image = _find_column(names, request.source.image, IMAGE, "images", path)
    label = _find_column(names, request.source.label, LABEL, "labels", path)
    split = next((name for name in names if name.strip().lower() in SPLIT), None)
    wanted = [image, label, *([split] if split else [])]
    for number, row in enumerate(rows, 2):
        if any(not (row.get(name) or "").strip() for name in wanted):
            raise DataError(
                f"line {number} lacks an entry in {', '.join(wanted)}", where=str(path), fix=FORM
            )
    folder = path.parent
    files = [os.path.join(folder, os.path.expanduser(row[image].strip())) for row in rows]
    labels = [row[label].strip() for row in rows]
    splits = [row[split].strip().lower() if split else WHOLE for row in rows]
    _check_files(files, path)
    return Table(files, labels, splits)


def _find_column(
    names: Sequence[str], asked: str | None, usual: Sequence[str], what: str, path: Path
) -> str:
    found = [name for name in names if name.strip().lower() in usual]
    if asked is not None:
        found = [name for name in names if name == asked]
    if len(found) == 1:
        return found[0]
    option = "image" if usual is IMAGE else "label"
    raise DataError(
        f"{len(found) or 'no'} columns could be the {what}; the columns are {', '.join(names)}",
        where=str(path),
        fix=f"name it: --source.{option} COLUMN",
    )


def _check_files(files: Sequence[str], path: Path) -> None:
    """Raise DataError where files are missing or listed twice."""
    if not files:
        raise DataError("the table has no lines of images", where=str(path), fix=FORM)
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} images do not exist: {missing[0]}",
            where=str(path),
            fix=FORM,
        )
    counts = Counter(os.path.realpath(file) for file in files)
    twice = [file for file, count in counts.items() if count > 1]
    if twice:
        raise DataError(
            f"{len(twice)} images are listed twice: {show_some(twice)}",
            where=str(path),
            fix="list every image once, in one split",
        )


CSV = CsvSource()
