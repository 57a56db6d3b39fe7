"""Images that are read when they are needed, by torch's DataLoader."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from abatis.api.batch import Batch
from abatis.api.randomness import seeded
from abatis.data.augment import to_device, to_unit
from abatis.data.info import Rows, Split, whole
from abatis.data.pixel_range import Rounding
from abatis.errors import DataError
from abatis.system.cores import count_cores

Key = tuple[int, int]  # index of an image, step
Sample = tuple[Tensor, int]  # image, its index
Stacked = tuple[Tensor, Tensor]  # images (B, C, H, W), index (B,)


FEW = 1000  # images, of which fewer are read faster than processes start
MOST = 8  # processes


def choose_workers(asked: int | None, images: int) -> int:
    """How many loader processes to use.

    Args:
        asked: how many were asked for; if None, one for each core of this process but one, and
            at most 8; none for few images.
        images: how many there are.
    """
    if asked is not None:
        return asked
    if images < FEW:
        return 0
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of the run on this machine
    return max(0, min(MOST, count_cores() // processes - 1))


class ImageSource(Protocol):
    """Reads one image at a time. It is sent to the loader processes, so it holds plain data."""

    labels: Tensor  # (N,) int64 on the CPU

    def image(self, index: int, train: bool) -> Tensor:
        """(C, H, W), uint8, or float32 in [0, 1] up to rounding; may draw from global generators.

        Raises DataError.
        """


class StreamSplit:
    """A split that is read image by image.

    Args:
        source: reads one image.
        device: where batches are put.
        workers: loader processes; 0 reads in this one.
        index: (n,) int64, which images, by default all.
        rounding: clamps floats to [0, 1], and remembers by how much; not needed for uint8.
    """

    def __init__(
        self,
        source: ImageSource,
        device: torch.device,
        workers: int,
        index: Tensor | None = None,
        rounding: Rounding | None = None,
    ) -> None:
        self.index = torch.arange(len(source.labels)) if index is None else index
        self.labels = source.labels[self.index]
        self._source, self._device, self._workers = source, device, workers
        self._rounding = rounding
        self._resting: dict[tuple[str, int], _Loader] = {}

    def __len__(self) -> int:
        return len(self.index)

    def subset(self, positions: Tensor) -> Split:
        """The split of some positions, (m,) int64."""
        chosen = self.index[positions]
        return StreamSplit(self._source, self._device, self._workers, chosen, self._rounding)

    def list_files(self) -> list[str] | None:
        """The file of each image, in order; None where images are not files."""
        files: list[str] | None = getattr(self._source, "files", None)
        return None if files is None else [files[place] for place in self.index.tolist()]

    def train_batches(
        self, batches: Iterable[tuple[int, Tensor]], seed: int, rows: Rows = whole
    ) -> Iterator[Batch]:
        """Augmented batches, a process's rows of each, for pairs (global step, (B,) positions).

        Every image has draws of its own.
        """
        mine = ((step, positions[rows(len(positions))]) for step, positions in batches)
        keys = (
            [(index, step) for index in self.index[positions].tolist()] for step, positions in mine
        )
        return self._batches(keys, _Keyed(self._source, "augment", seed))

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """All images in order, not augmented."""
        keys = (
            [(index, 0) for index in some.tolist()] for some in torch.split(self.index, batch_size)
        )
        return self._batches(keys, _Keyed(self._source, "evaluate", 0))

    def _batches(self, keys: Iterable[list[Key]], dataset: _Keyed) -> Iterator[Batch]:
        use = (dataset.purpose, dataset.seed)
        loader = self._resting.pop(use, None) or _Loader(dataset, self._workers, self._device)
        for stacked in loader.read(keys):
            if isinstance(stacked, DataError):
                raise stacked
            images, index = stacked
            if self._rounding is not None:
                images = self._rounding.clamp(images)
            y = to_device(self._source.labels[index], self._device)
            yield Batch(
                to_unit(images.to(self._device, non_blocking=True)),
                y,
                to_device(index, self._device),
            )
        if self._workers:  # its processes wait for the next epoch
            self._resting[use] = loader


class _Loader:
    """Torch's DataLoader for one epoch after another, with the same processes."""

    def __init__(self, dataset: _Keyed, workers: int, device: torch.device) -> None:
        self._keys = _Keys()
        self._loader: DataLoader[Stacked | DataError] = DataLoader(
            dataset,  # type: ignore[arg-type]  # its samples are collated to what the loader yields
            batch_sampler=self._keys,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # else the loader draws from the global one
        )

    def read(self, keys: Iterable[list[Key]]) -> Iterator[Stacked | DataError]:
        """The batches of these keys."""
        self._keys.batches = keys
        return iter(self._loader)


class _Keys:
    """What the loader reads next; it is asked once an epoch."""

    batches: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class _Keyed(Dataset[Sample | DataError]):
    """Reads the image of a key.

    All global generators are then seeded from (seed, purpose, index, step).
    """

    def __init__(self, source: ImageSource, purpose: str, seed: int) -> None:
        self.source, self.purpose, self.seed = source, purpose, seed

    def __getitem__(self, key: Key) -> Sample | DataError:
        index, step = key
        try:
            with seeded(self.seed, f"{self.purpose}/{index}", step):
                return self.source.image(index, self.purpose == "augment"), index
        except DataError as error:  # raised in a worker, it would arrive as a traceback's text
            return error


def _collate(samples: list[Sample | DataError]) -> Stacked | DataError:
    read: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        read.append(sample)
    return torch.stack([image for image, _ in read]), torch.tensor([index for _, index in read])
