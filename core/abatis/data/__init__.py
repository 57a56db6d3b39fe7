"""Labelled images: a named set, ``npz:PATH``, ``folder:PATH``, or what a program hands over."""

from __future__ import annotations

from pathlib import Path

import torch

from abatis.config.run_config import ExtraConfig
from abatis.data.extra import with_extra
from abatis.data.folder import DEFAULT, folder_info, open_folder
from abatis.data.info import Data, DataInfo, Split, View
from abatis.data.named import NAMED, named_info, read_named
from abatis.data.npz import npz_info, read_npz
from abatis.data.order import batches_per_epoch, epoch_batches
from abatis.data.user import from_user
from abatis.errors import DataError, did_you_mean

__all__ = [
    "Data",
    "DataInfo",
    "Split",
    "View",
    "batches_per_epoch",
    "describe",
    "epoch_batches",
    "from_user",
    "open_data",
]


def describe(
    spec: str,
    *,
    data_dir: Path,
    image_size: int | None,
    augment: str,
    skip_broken: bool = False,
    view: View = DEFAULT,
) -> DataInfo:
    """The facts of a data set, by its spec: of a named one without any file, of a folder without its images.

    augment: "auto", "none", "crop" or "crop-flip"; view: of a folder's images. Raises DataError, UsageError.
    """
    kind, path = _parse(spec)
    if kind == "npz":
        return npz_info(spec, read_npz(path), image_size, augment)
    if kind == "folder":
        return folder_info(spec, path, image_size, augment, skip_broken, view)
    return named_info(spec, image_size, augment)


def open_data(
    spec: str,
    *,
    data_dir: Path,
    limit: int | None,
    image_size: int | None,
    augment: str,
    device: torch.device,
    workers: int,
    skip_broken: bool = False,
    view: View = DEFAULT,
    extra: ExtraConfig | None = None,
) -> Data:
    """The splits of a data set. In memory, on the device; folders are streamed by ``workers`` processes.

    limit: a switch for smoke tests; the first N training images, taken before some are held out, and the same
    share of the test images. A limit beyond the set is fine. In a folder the classes take turns, so the
    first N are of all classes. skip_broken: leave out images of a folder that cannot be read; view: of a folder's images.
    extra: additional training images, for data in memory.
    Raises DataError, UsageError.
    """
    kind, path = _parse(spec)
    if kind == "folder":
        return open_folder(
            spec, path, limit, image_size, augment, device, workers, skip_broken, view
        )
    if kind == "npz":
        arrays = read_npz(path)
        info = npz_info(spec, arrays, image_size, augment)
    else:
        info = named_info(spec, image_size, augment)
        arrays = read_named(spec, Path(data_dir).expanduser())
    data = arrays.open(info, limit, device)
    return data if extra is None else with_extra(data, arrays, extra)


def _parse(spec: str) -> tuple[str, Path]:
    """``"npz:PATH"`` as ("npz", PATH), a named set as (name, unused path)."""
    kind, colon, rest = spec.partition(":")
    path = Path(rest).expanduser()
    if (colon and rest and kind in ("npz", "folder")) or (not colon and spec in NAMED):
        return kind, path
    prefix = (
        "npz:" if spec.endswith(".npz") else "folder:" if Path(spec).expanduser().is_dir() else ""
    )
    raise DataError(
        f"data {spec!r}: {did_you_mean(kind, [*NAMED, 'npz:PATH', 'folder:PATH'])}",
        fix=f"write {prefix}{spec}"
        if prefix
        else f"use {', '.join(NAMED)}, npz:PATH or folder:PATH",
    )
