"""Additional training images from an .npz file: mapped, not read, and mixed into every batch."""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.api.randomness import draw_integers_of
from abatis.config.option_groups import ExtraConfig
from abatis.data.arrays import Arrays, ArraySplit, parse_labels
from abatis.data.augment import to_device, to_unit
from abatis.data.info import Data, DataInfo, Rows, Split, join_notes, whole
from abatis.errors import DataError, UsageError
from abatis.system.files import sha256_of

IMAGE, LABEL = "image", "label"
ADDED = -1  # in the place of a position: an additional image
REWRITE = (
    "write it again with numpy.savez (not savez_compressed): "
    "image (N, H, W, C) uint8 and label (N,) of integers"
)
LOCAL_HEADER = 30  # bytes before a zip member's name; the last four: lengths of name, extra field


@functools.cache
def sha256_of_extra(path: Path) -> str:
    """The sha256 of a file, read once a process; raises DataError."""
    try:
        return sha256_of(path.expanduser())
    except OSError as error:
        raise DataError(
            f"the file cannot be read ({error.strerror})", where=str(path), fix="check --extra.file"
        ) from error


@dataclass(frozen=True)
class Extra:
    """The images of a file.

    Attributes:
        path: the file.
        images: (M, H, W, C) uint8, mapped into memory.
        labels: (M,) int64.
        chosen: (m,) int64, which of the M images are used.
    """

    path: Path
    images: np.ndarray[Any, np.dtype[np.uint8]]
    labels: Tensor
    chosen: Tensor

    def some(self, numbers: Tensor) -> Tensor:
        """(b, C, H, W) uint8 for (b,) numbers of images."""
        return torch.from_numpy(self.images[numbers.numpy()]).permute(0, 3, 1, 2)


def read_extra(path: Path, info: DataInfo) -> Extra:
    """The file's images and labels, checked against the data; raises DataError."""
    path = path.expanduser()
    images, labels = (_member(path, name) for name in (IMAGE, LABEL))
    shape = (info.image_size, info.image_size, info.channels)
    shapes = (shape, shape[:2]) if info.channels == 1 else (shape,)
    if images.dtype != np.uint8 or images.shape[1:] not in shapes:
        raise DataError(
            f"'{IMAGE}' is {images.dtype} of shape {images.shape}",
            where=str(path),
            fix=f"the data need uint8 (N, {', '.join(map(str, shape))})",
        )
    y = parse_labels(labels, len(images), f"'{LABEL}'", str(path))
    if int(y.max()) >= info.num_classes:
        raise DataError(
            f"'{LABEL}' has the label {int(y.max())}, but {info.name} has "
            f"{info.num_classes} classes",
            where=str(path),
            fix="give labels of the same classes, counted from 0",
        )
    return Extra(path, images.reshape(len(images), *shape), y, torch.arange(len(images)))


def drop_copies(extra: Extra, kept_apart: Iterable[Tensor], policy: str) -> tuple[Extra, int]:
    """The images that are not exact copies of others, by sha256 of the pixels.

    Args:
        extra: the images of a file.
        kept_apart: the others, (N, C, H, W) uint8 each.
        policy: "refuse" raises DataError where there is a copy, "drop" leaves copies out.

    Returns:
        What remains, and how many were copies.
    """
    known = {
        _digest(image.permute(1, 2, 0).contiguous().numpy())
        for images in kept_apart
        for image in images.cpu()
    }
    fresh = [number for number, image in enumerate(extra.images) if _digest(image) not in known]
    copies = len(extra.images) - len(fresh)
    if copies and (policy == "refuse" or not fresh):
        fix = "remove them, or leave them out with --extra.copies drop"
        raise DataError(
            f"{copies} of {len(extra.images)} images are exact copies of test or held-out images",
            where=str(extra.path),
            fix=fix if fresh else "give other images: without the copies no image is left",
        )
    return Extra(extra.path, extra.images, extra.labels, torch.tensor(fresh)), copies


def _digest(image: np.ndarray[Any, Any]) -> bytes:
    return hashlib.sha256(image.data).digest()


def add_extra(data: Data, arrays: Arrays, config: ExtraConfig) -> Data:
    """The data with additional images in every training batch.

    None of them is a copy of a test or held-out image.
    Raises DataError, or UsageError where the data hold no bytes to compare with.
    """
    assert config.file is not None
    if not isinstance(data.train, ArraySplit) or arrays.x_train.dtype != torch.uint8:
        raise UsageError(
            "--extra.file needs uint8 images in memory", fix="give the images as uint8 arrays"
        )
    held_out = arrays.x_train[data.val.index] if data.val is not None else arrays.x_train[:0]
    extra, copies = drop_copies(
        read_extra(config.file, data.info), (arrays.x_test, held_out), config.copies
    )
    note = (
        f"{config.fraction:.0%} of each training batch are images of {extra.path.name}, "
        f"sha256 {sha256_of_extra(config.file)}"
    )
    if copies:
        note += f"; {copies} copies of test or held-out images among them are left out"
    info = replace(data.info, note=join_notes(data.info.note, note))
    size = len(arrays.x_train)
    train = MixedSplit(data.train, extra, config.fraction, size)
    return replace(data, info=info, train=train, places_with_extra=size + len(extra.images))


def describe_extra(config: ExtraConfig, info: DataInfo, batch_size: int) -> dict[str, Any]:
    """What a plan says about the file.

    Raises DataError or UsageError where it does not fit the data or the batch.
    """
    assert config.file is not None
    extra, added = read_extra(config.file, info), int(spread(batch_size, config.fraction).sum())
    return {
        "images": len(extra.images),
        "of a batch": f"{added} of {batch_size}",
        "copies": config.copies,
        "sha256": sha256_of_extra(config.file),
    }


class MixedSplit:
    """A training split in which additional images replace a fixed share of every batch.

    They are drawn with replacement, and an epoch has as many batches as without them. A position of
    :data:`ADDED` stands for one; where a batch has none, they replace images of the training set.
    Their index continues that of the whole training set, which has ``size`` images.
    """

    def __init__(self, own: ArraySplit, extra: Extra, fraction: float, size: int) -> None:
        self.own, self.extra, self.fraction, self.size = own, extra, fraction, size

    def __len__(self) -> int:
        return len(self.own)

    @property
    def index(self) -> Tensor:
        """(n,) int64 on the CPU, of the training set's own images."""
        return self.own.index

    @property
    def labels(self) -> Tensor:
        """(n,) int64 on the CPU, of the training set's own images."""
        return self.own.labels

    def subset(self, positions: Tensor) -> Split:
        """The split of some positions, (m,) int64, without additional images."""
        return self.own.subset(positions)

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """The training set's own images in order, not augmented."""
        return self.own.eval_batches(batch_size)

    def train_batches(
        self, batches: Iterable[tuple[int, Tensor]], seed: int, rows: Rows = whole
    ) -> Iterator[Batch]:
        """Augmented batches with ``origin``: 0 the training set's own, 1 additional."""
        for step, positions in batches:
            mine = rows(len(positions))
            samples = torch.arange(mine.start, mine.stop)  # (b,)
            drawn = draw_integers_of(samples, seed, "extra", (), len(self.extra.chosen), step)
            numbers = self.extra.chosen[drawn]  # (b,)
            added = find_added(positions, self.fraction)[mine]  # (b,)
            batch = self.own.stored(positions[mine])
            device = batch.x.device
            x, y, index = batch.x, batch.y, batch.index
            where = to_device(added.nonzero().squeeze(1), device)
            chosen = numbers[added]
            x[where] = to_device(self.extra.some(chosen), device)
            y[where] = to_device(self.extra.labels[chosen], device)
            index[where] = to_device(self.size + chosen, device)
            x = self.own.augmented(x, seed, step, mine)
            yield Batch(to_unit(x), y, index, origin=to_device(added.long(), device))


def find_added(positions: Tensor, fraction: float) -> Tensor:
    """Which rows of a batch are additional images, (B,) bool: as its positions say, or spread."""
    added = positions == ADDED
    return added if bool(added.any()) else spread(len(positions), fraction)


def fill_up(batches: Iterable[Tensor], size: int, fraction: float) -> list[Tensor]:
    """Batches of ``size`` positions, made from smaller ones of the training set's own images.

    Args:
        batches: of at most as many positions as :func:`count_own` says.
        size: of a batch.
        fraction: share of additional images; a batch with fewer of its own has more of them.

    Returns:
        Positions, (size,) int64 each; :data:`ADDED` stands for an additional image.
    """
    places = (~spread(size, fraction)).nonzero().squeeze(1)
    filled = []
    for own in batches:
        positions = own.new_full((size,), ADDED)
        positions[places[: len(own)]] = own
        filled.append(positions)
    return filled


def count_own(size: int, fraction: float) -> int:
    """How many images of the training set a batch has beside additional ones."""
    return size - int(spread(size, fraction).sum())


def spread(count: int, fraction: float) -> Tensor:
    """Which rows of a batch are additional images: ``round(fraction * count)``, evenly spread.

    Returns:
        (count,) bool.

    Raises:
        UsageError: the batch would be of one kind only.
    """
    added = round(fraction * count)
    if not 0 < added < count:
        raise UsageError(
            f"--extra.fraction {fraction:g} of a batch of {count} images is {added} images",
            fix="choose a larger --batch-size or another fraction",
        )
    return (torch.arange(count) * added % count) < added


def _member(path: Path, name: str) -> np.ndarray[Any, Any]:
    """An array of an .npz file, mapped into memory; raises DataError."""
    if not path.is_file():
        raise DataError(
            "there is no such .npz file",
            where=str(path),
            fix=f"give a file with '{IMAGE}' and '{LABEL}'",
        )
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            known = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if name not in known:
                raise DataError(
                    f"no array '{name}' in the file; it holds: {', '.join(known) or 'nothing'}",
                    where=str(path),
                    fix=f"save the arrays as '{IMAGE}' and '{LABEL}'",
                )
            info = known[name]
            if info.compress_type != zipfile.ZIP_STORED:
                raise DataError(
                    f"'{name}' is compressed and cannot be mapped", where=str(path), fix=REWRITE
                )
            file.seek(info.header_offset)
            header = file.read(LOCAL_HEADER)
            lengths = (header[26:28], header[28:30])  # of the name and of the extra field
            file.seek(sum(int.from_bytes(length, "little") for length in lengths), 1)
            return _map(path, file)
    except DataError:
        raise
    except Exception as error:  # zip and header errors of every type mean the same thing
        raise DataError(
            f"the file cannot be read ({type(error).__name__}: {error})",
            where=str(path),
            fix=REWRITE,
        ) from error


def _map(path: Path, file: Any) -> np.ndarray[Any, Any]:
    """The array whose .npy header comes next in the file.

    Raises ValueError for what cannot be mapped row by row.
    """
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise ValueError("it is in column order: save numpy.ascontiguousarray(array)")
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(path, dtype, "r", file.tell(), shape))
