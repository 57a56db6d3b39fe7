"""webdataset:PATH, shards of samples in tar archives, as webdataset writes them.

The members of a sample share their name up to its first dot: ``0017.jpg`` and ``0017.cls``. The
library hands samples out as a stream; a run that resumes bit for bit needs image 4,711 itself, so
the archives are indexed here and nothing is unpacked.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from abatis.data.info import Data, DataInfo, show_some
from abatis.data.pictures import Pictures, open_pictures
from abatis.data.request import DataRequest
from abatis.data.sources import DataSource
from abatis.data.sources.class_folders import SUFFIXES
from abatis.data.splits import TESTING, TRAINING, Part, choose_splits, cut_splits, read_splits
from abatis.errors import DataError

FORM = "webdataset:FOLDER, or webdataset:train-{0000..0099}.tar,test-{0000..0009}.tar"
CLASS_FILES = ("classnames.txt", "classes.txt")
LABEL, TABLE = ".cls", ".json"
BLOCK = 512  # bytes; a tar archive ends with blocks of zeros
WHOLE = "all"  # the split of shards whose names say nothing
RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")


@dataclass(frozen=True)
class Member:
    """Where an image lies in an archive."""

    archive: str
    name: str
    offset: int
    size: int


class Members:
    """Images inside archives; a place is a :class:`Member`."""

    def open(self, place: Member) -> io.BytesIO:
        """The content of the image."""
        try:
            with open(place.archive, "rb") as file:
                file.seek(place.offset)
                return io.BytesIO(file.read(place.size))
        except OSError as error:
            raise DataError(
                f"the archive cannot be read ({error.strerror})", where=place.archive
            ) from error

    def name(self, place: Member) -> str:
        """The archive and the name in it."""
        return f"{place.archive}/{place.name}"


class ShardsSource(DataSource):
    """Tar archives of images and labels."""

    streamed = True
    takes = frozenset({"label", "test_share"})

    def describe(self, request: DataRequest) -> DataInfo:
        """From the headers of all archives, and one image of each class."""
        return _read(request)[0]

    def open(self, request: DataRequest) -> Data:
        """The splits; raises DataError."""
        return open_pictures(*_read(request), request)

    def matches(self, path: Path) -> bool:
        """Is it an archive by its name?"""
        return path.suffix == ".tar"


def _read(request: DataRequest) -> tuple[DataInfo, Pictures, Pictures]:
    shards, asked = _find_shards(request)
    chosen = choose_splits(asked, list(shards), request)
    classes = _read_classes(Path(next(iter(shards.values()))[0]).parent)

    def read(splits: tuple[str, ...]) -> Part:
        return _index([file for split in splits for file in shards[split]], request, classes)

    return read_splits(chosen, read, request)


def _find_shards(request: DataRequest) -> tuple[dict[str, list[str]], str]:
    """The archives of every split, and the splits that are asked for."""
    if ".tar" in request.place:
        patterns = request.place.split(",")
        lists = [_expand(pattern) for pattern in patterns]
        if len(lists) == 2:
            return {"train": lists[0], "test": lists[1]}, ""
        if len(lists) == 1 and request.source.test_share is None and not request.trains:
            return {"test": lists[0]}, ""
        return {f"{WHOLE}{number or ''}": files for number, files in enumerate(lists)}, ""
    place, asked = cut_splits(request.place)
    folder = Path(place).expanduser()
    files = sorted(folder.rglob("*.tar")) if folder.is_dir() else []
    if not files:
        packed = next(folder.rglob("*.tar.*"), None) if folder.is_dir() else None
        raise DataError(
            "there are no shards (.tar) in the folder"
            + (f"; {packed.name} is compressed: unpack it to .tar" if packed else ""),
            where=str(folder),
            fix=FORM,
        )
    shards: dict[str, list[str]] = {}
    for file in files:
        shards.setdefault(_name_split(file.relative_to(folder)), []).append(str(file))
    for found in shards.values():
        _check_gaps(found)
    return shards, asked


def _expand(pattern: str) -> list[str]:
    """``set-{000..009}.tar`` as ten paths, which must exist."""
    found = RANGE.search(pattern)
    if found is None:
        path = Path(pattern).expanduser()
        if not path.is_file():
            raise DataError("there is no such shard", where=str(path), fix=FORM)
        return [str(path)]
    first, last = found[1], found[2]
    return [
        path
        for number in range(int(first), int(last) + 1)
        for path in _expand(
            f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}"
        )
    ]


def _name_split(path: Path) -> str:
    """The split that a path names by one of its words."""
    words = re.split(r"[^A-Za-z]+", str(path.with_suffix("")).lower())
    return next((word for word in words if word in (*TRAINING, *TESTING)), WHOLE)


def _check_gaps(files: Sequence[str]) -> None:
    """Raise DataError where a numbered shard is missing between two others."""
    series: dict[tuple[str, str], list[int]] = {}
    for file in files:
        found = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", file)
        if found:
            series.setdefault((found[1], found[3]), []).append(int(found[2]))
    for (stem, tail), numbers in series.items():
        missing = sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers))
        if missing:
            raise DataError(
                f"{len(missing)} shards are missing, the first is number {missing[0]}",
                where=f"{stem}*{tail}",
                fix="get the missing ones, or name those to use by a pattern: " + FORM,
            )


def _read_classes(folder: Path) -> tuple[str, ...]:
    """The names in a file beside the shards, one a line; empty without one."""
    for name in CLASS_FILES:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            return tuple(line.strip() for line in text.splitlines() if line.strip())
    return ()


def _index(files: Sequence[str], request: DataRequest, classes: tuple[str, ...]) -> Part:
    """The samples of some archives, in order."""
    members: list[Member] = []
    labels: list[int] = []
    seen: dict[str, str] = {}
    for file in files:
        for key, image, label in _list_samples(file, request.source.label):
            if key in seen:
                raise DataError(
                    f"the sample {key} is in two shards",
                    where=f"{seen[key]} and {file}",
                    fix="name every shard once",
                )
            seen[key] = file
            members.append(image)
            labels.append(label)
    return Part(Pictures(members, torch.tensor(labels, dtype=torch.int64), Members()), classes)


def _list_samples(archive: str, key: str | None) -> Iterator[tuple[str, Member, int]]:
    """Name, image and label of every sample of an archive."""
    images: dict[str, Member] = {}
    written: dict[str, tuple[str, bytes]] = {}  # the member that holds a label, and its content
    try:
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                folder, _, name = entry.name.rpartition("/")
                stem, dot, rest = name.partition(".")
                sample, suffix = f"{folder}/{stem}", f"{dot}{rest}".lower()
                if suffix in SUFFIXES:
                    if sample in images:
                        raise ValueError(f"sample {stem} has two images")
                    images[sample] = Member(archive, entry.name, entry.offset_data, entry.size)
                elif suffix == LABEL or (suffix == TABLE and sample not in written):
                    content = tar.extractfile(entry)
                    assert content is not None
                    written[sample] = entry.name, content.read()
            _check_end(tar)
        found = {sample: _parse_label(*pair, key) for sample, pair in written.items()}
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(
            f"the shard cannot be read ({type(error).__name__}: {error})",
            where=archive,
            fix="get it again; shards are uncompressed tar archives",
        ) from error
    labels = {sample: label for sample, label in found.items() if label is not None}
    odd = sorted(images.keys() ^ labels.keys())
    if odd or not images:
        raise DataError(
            f"{len(odd)} samples lack an image or a label: {show_some(odd)}"
            if odd
            else "the shard holds no images",
            where=archive,
            fix="a sample is an image (.jpg, .png) and a label (.cls, or 'label' in .json)",
        )
    for sample, image in images.items():
        yield sample, image, labels[sample]


def _parse_label(name: str, content: bytes, key: str | None) -> int | None:
    """The label of a .cls or .json member; None where a table has none. Raises ValueError."""
    if name.lower().endswith(LABEL):
        text = content.decode("ascii", "replace").strip()
        if not text.isdecimal():
            raise ValueError(f"{name} holds {text[:20]!r}, not the number of a class")
        return int(text)
    table = json.loads(content)
    found = [table[word] for word in ([key] if key else ["label", "cls"]) if word in table]
    if found and (isinstance(found[0], bool) or not isinstance(found[0], int)):
        raise ValueError(f"the label in {name} is {found[0]!r}, not the number of a class")
    return found[0] if found else None


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ValueError where an archive does not end as one: it was cut off between two members."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)  # behind the last member
    if tar.fileobj.read(BLOCK) != bytes(BLOCK):
        raise ValueError("the archive has no end: it was cut off")


SHARDS = ShardsSource()
