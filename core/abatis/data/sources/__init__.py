"""Where images come from: one file for each source.

Each has one line in ``DATA_SOURCES``. Its module is imported when the source is used, so that
digits need no image decoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from abatis.config.built_in import DATA_SOURCES, load_built_in
from abatis.data.info import Data, DataInfo
from abatis.data.request import DataRequest
from abatis.errors import DataError, did_you_mean


class DataSource(Protocol):
    """One kind of data: a named data set, or whatever lies at a path behind a prefix."""

    streamed: bool = False
    """The data are image files that are read during training; else arrays in memory."""
    takes: frozenset[str] = frozenset()
    """The options of the group ``source`` that apply to the data."""

    def describe(self, request: DataRequest) -> DataInfo:
        """The facts of the data, without opening the images; raises DataError, UsageError."""

    def open(self, request: DataRequest) -> Data:
        """The splits of the data; raises DataError, UsageError."""

    def matches(self, path: Path) -> bool:
        """Does a path without a prefix look like such data? For the hint in an error."""
        return False


def describe(request: DataRequest) -> DataInfo:
    """The facts of a data set: of a named one without its files, of a folder without its images.

    Raises:
        DataError: the data are unknown, missing or of the wrong form.
        UsageError: an option does not apply to these data.
    """
    source = find_source(request.spec)
    request.check(source.streamed, source.takes)
    return source.describe(request)


def open_data(request: DataRequest) -> Data:
    """The splits of a data set: in memory on the device, or streamed by loader processes.

    With a limit, images of all classes are chosen, the same in every run.

    Raises:
        DataError: the data are unknown, missing or of the wrong form.
        UsageError: an option does not apply to these data.
    """
    source = find_source(request.spec)
    request.check(source.streamed, source.takes)
    return source.open(request)


def is_streamed(spec: str) -> bool:
    """Does a spec name image files that are read during training? False for unknown specs."""
    key = _find_key(spec)
    return key is not None and _load(key).streamed


def find_source(spec: str) -> DataSource:
    """The source of ``"cifar10"`` or ``"npz:PATH"``; raises DataError where there is none."""
    key = _find_key(spec)
    if key is not None:
        return _load(key)
    *others, last = DATA_SOURCES
    fix = f"use {', '.join(others)} or {last}"
    for known in DATA_SOURCES:
        if ":" in known and _load(known).matches(Path(spec).expanduser()):
            fix = f"write {known.partition(':')[0]}:{spec}"
    raise DataError(f"data {spec!r}: {did_you_mean(spec.partition(':')[0], DATA_SOURCES)}", fix=fix)


def _find_key(spec: str) -> str | None:
    prefix, colon, path = spec.partition(":")
    if not colon:
        return spec if spec in DATA_SOURCES else None
    return next((key for key in DATA_SOURCES if path and key.startswith(f"{prefix}:")), None)


def _load(key: str) -> DataSource:
    return cast(DataSource, load_built_in(DATA_SOURCES[key]))
