"""hf:NAME[:TEST | :TRAIN,TEST], data sets of the Hugging Face hub, or local ones in its forms.

NAME is that of the hub, or a folder: what ``save_to_disk`` wrote, parquet files, or whatever else
``datasets.load_dataset`` reads. Images stay encoded until they are needed, and are decoded here.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from abatis.data.classes import order_classes
from abatis.data.info import Data, DataInfo, join_notes, show_some
from abatis.data.pictures import Pictures, open_pictures
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.splits import TESTING, Part, choose_splits, cut_splits, read_splits
from abatis.errors import DataError, UsageError, summarise_error

USUAL = ("label", "labels", "fine_label", "target", "class")
"""Names of label columns, for data sets whose types do not say it."""
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves
SHUFFLED_OVER = 10  # times the images that are read from a stream
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


class HubSource(DataSource):
    """Data sets of the library ``datasets``."""

    streamed = True
    takes = frozenset({"image", "label", "config", "revision", "stream", "test_share"})

    def describe(self, request: DataRequest) -> DataInfo:
        """From the features of the set and the header of one image of each class."""
        return _read(request)[0]

    def open(self, request: DataRequest) -> Data:
        """The splits; raises DataError, UsageError."""
        return open_pictures(*_read(request), request)


class Rows:
    """The column of encoded images of a table in memory or mapped from disk."""

    def __init__(self, table: Any, column: str, name: str) -> None:
        self.table, self.column, self.label = table, column, name

    def open(self, place: int) -> str | io.BytesIO:
        """The content of the image, or its path."""
        cell = self.table[place][self.column]
        content = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if content is not None:
            return io.BytesIO(content)
        path = cell.get("path") if isinstance(cell, Mapping) else None
        if path is None:
            raise DataError("a row has no image", where=self.name(place))
        return str(path)

    def name(self, place: int) -> str:
        """The set, the split and the number of the row."""
        return f"{self.label}, row {place}"


def _read(request: DataRequest) -> tuple[DataInfo, Pictures, Pictures]:
    library = _import_library()
    name, asked = cut_splits(request.place)
    if Path(request.place).expanduser().exists():
        name, asked = request.place, ""
    found = _load(library, name, request)
    splits = list(found)
    notes: list[str] = []
    image = _find_image(library, found[splits[0]].features, request)
    label = _find_label(library, found[splits[0]].features, request, notes)
    unlabelled = [
        split for split in splits if split in TESTING and _is_unlabelled(found[split], label)
    ]
    chosen = choose_splits(asked, splits, request, unlabelled)

    def read(names: tuple[str, ...]) -> Part:
        parts = [found[one] for one in names]
        if request.source.stream is not None:
            return _read_stream(library, parts, names, (image, label), request, notes)
        table = parts[0] if len(parts) == 1 else library.concatenate_datasets(parts)
        labels = table.select_columns([label]).with_format("arrow")[:][label].to_pylist()
        rows = table.select_columns([image])
        return _make_part(library, rows, table.features, (image, label), labels, names, request)

    info, train, test = read_splits(chosen, read, request)
    return replace(info, note=join_notes(info.note, *notes)), train, test


def _import_library() -> ModuleType:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise UsageError(
            "hf: needs the library datasets, which is not installed",
            fix="pip install 'abatis[datasets]'",
        ) from error


def _load(library: ModuleType, name: str, request: DataRequest) -> dict[str, Any]:
    """The splits by name."""
    source, folder = request.source, Path(name).expanduser()
    if not folder.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise DataError("there is no such folder", where=name, fix="check the path")
    streams = source.stream is not None
    try:
        if folder.is_dir() and any((folder / file).is_file() for file in SAVED):
            found = library.load_from_disk(str(folder))
            if streams and not hasattr(found, "items"):
                found = found.to_iterable_dataset()
            elif streams:
                found = {split: part.to_iterable_dataset() for split, part in found.items()}
        else:
            found = library.load_dataset(
                str(folder) if folder.exists() else name,
                source.config,
                revision=source.revision,
                streaming=streams,
            )
    except Exception as error:  # the hub, the cache, parquet and scripts raise what they like
        offline = [word for word in OFFLINE if os.environ.get(word, "0") not in ("", "0")]
        fix = "check the name, the connection, and --source.config where a set has several"
        if offline:
            fix = f"{offline[0]} is set, so only the local cache is read: open the set online once"
        raise DataError(
            f"the data set cannot be opened: {summarise_error(error)}", where=request.spec, fix=fix
        ) from error
    return dict(found.items()) if hasattr(found, "items") else {"train": found}


def _find_image(library: ModuleType, features: Any, request: DataRequest) -> str:
    """The column of images."""
    if features is None:
        raise DataError("the stream does not say what its columns are", where=request.spec)
    known = [name for name, feature in features.items() if _holds_images(library, feature)]
    return _choose(known, request.source.image, "image", features, request)


def _holds_images(library: ModuleType, feature: Any) -> bool:
    """Is it a column of encoded images? Parquet of other programs has bytes in a structure."""
    if isinstance(feature, Mapping):
        return "bytes" in feature
    return isinstance(feature, library.Image) or getattr(feature, "dtype", "") == "binary"


def _find_label(library: ModuleType, features: Any, request: DataRequest, notes: list[str]) -> str:
    """The column of labels: the one of type ClassLabel, else one with a usual name."""
    asked = request.source.label
    classes = [name for name, kind in features.items() if isinstance(kind, library.ClassLabel)]
    plain = [
        name
        for name, kind in features.items()
        if name.lower() in USUAL
        and getattr(kind, "dtype", "").startswith(("int", "uint", "string"))
    ]
    if asked is not None:
        kind = features.get(asked)
        typed = isinstance(kind, library.ClassLabel)
        whole = getattr(kind, "dtype", "").startswith(("int", "uint", "string", "large_string"))
        return _choose([asked] if typed or whole else [], asked, "label", features, request)
    if len(classes) > 1:
        usual = [name for name in classes if name in USUAL]
        if len(usual) == 1:
            notes.append(f"labels are {usual[0]}, not {', '.join(set(classes) - set(usual))}")
        return _choose(usual, None, "label", features, request)
    return _choose(classes or plain, None, "label", features, request)


def _choose(
    known: Sequence[str], asked: str | None, option: str, features: Any, request: DataRequest
) -> str:
    if asked in known if asked is not None else len(known) == 1:
        return asked or known[0]
    what = "images" if option == "image" else "labels"
    text = f"column {asked!r} does not hold {what}"
    if asked is None:
        text = f"{len(known) or 'no'} columns could be the {what}"
    raise DataError(
        f"{text}; the columns are {', '.join(features)}",
        where=request.spec,
        fix=f"name it: --source.{option} COLUMN",
    )


def _is_unlabelled(table: Any, label: str) -> bool:
    """Are all labels of a split -1, as where they are not published? Unknown of a stream."""
    if not hasattr(table, "select_columns") or not hasattr(table, "num_rows"):
        return False
    if label not in table.column_names:
        return True
    found = table.select_columns([label]).with_format("arrow")[:][label]
    return all(value is None or value == -1 for value in found.unique().to_pylist())


def _read_stream(
    library: ModuleType,
    parts: Sequence[Any],
    names: tuple[str, ...],
    columns: tuple[str, str],
    request: DataRequest,
    notes: list[str],
) -> Part:
    """The first images of a shuffled stream, kept encoded in memory."""
    image, label = columns
    count = request.source.stream or 1
    if len(parts) > 1:
        raise UsageError("--source.stream reads one split", fix=f"name one of {', '.join(names)}")
    stream = parts[0].select_columns(list(dict.fromkeys(columns)))
    features = parts[0].features
    if isinstance(features[image], library.Image):
        stream = stream.cast_column(image, library.Image(decode=False))
    shuffled = stream.shuffle(seed=0, buffer_size=SHUFFLED_OVER * count)
    try:
        rows = list(shuffled.take(count))
    except Exception as error:  # the network, a damaged shard
        raise DataError(
            f"the stream cannot be read: {summarise_error(error)}", where=request.spec
        ) from error
    notes.append(
        f"{len(rows)} images of {'+'.join(names)} are read from its shuffled stream, not the whole"
    )
    labels = [row[label] for row in rows]
    return _make_part(library, rows, features, columns, labels, names, request)


def _make_part(
    library: ModuleType,
    rows: Any,
    features: Any,
    columns: tuple[str, str],
    labels: list[Any],
    names: tuple[str, ...],
    request: DataRequest,
) -> Part:
    """The images of some rows, with their labels as numbers."""
    image, label = columns
    if isinstance(features[image], library.Image) and hasattr(rows, "cast_column"):
        rows = rows.cast_column(image, library.Image(decode=False))
    reader = Rows(rows, image, f"{request.spec} {'+'.join(names)}")
    kind = features[label]
    classes: list[str] = list(kind.names) if isinstance(kind, library.ClassLabel) else []
    if any(isinstance(value, str) for value in labels):
        classes = order_classes(list({str(value) for value in labels if value is not None}))
        places = {name: place for place, name in enumerate(classes)}
        labels = [None if value is None else places[str(value)] for value in labels]
    numbers = torch.tensor([-1 if value is None else int(value) for value in labels])
    if len(set(classes)) < len(classes):
        raise DataError(f"names of classes occur twice: {show_some(classes)}", where=request.spec)
    return Part(Pictures(range(len(numbers)), numbers.long(), reader), classes)


HUB = HubSource()
