"""What a data set is to the rest of the program: a few facts, and splits that hand out batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from abatis.api.batch import Batch
from abatis.errors import UsageError, did_you_mean

AUGMENTS = ("none", "crop", "crop-flip")
AREA = (0.35, 1.0)  # share of an image file that a random crop covers
ASPECT = (3 / 4, 4 / 3)
SMALL = 64  # pixels; up to here images are judged whole
SHOWN = 5  # names in a message

Rows = Callable[[int], slice]


def whole(n: int) -> slice:
    """All of n rows."""
    return slice(0, n)


@dataclass(frozen=True)
class View:
    """How an image file becomes an image for the network.

    Attributes:
        image_size: pixels a side, where the files do not say.
        interpolation: timm's name of it.
        crop: share of the resized image that is judged, from its middle.
        resize: "shorter": the shorter side is resized; "squash": both sides, whatever the shape;
            "none": the middle is cut out as it is.
        auto_augment: A policy as timm writes it; in training only.
        erasing: share of the images of which a rectangle becomes noise; in training only.
    """

    image_size: int = 224
    interpolation: str = "bilinear"
    crop: float = 224 / 256
    resize: str = "shorter"
    auto_augment: str = ""
    erasing: float = 0.0

    def at(self, size: int) -> View:
        """The view of images of ``size`` pixels a side: small ones are not cropped."""
        return replace(self, crop=1.0) if size <= SMALL else self


@dataclass(frozen=True)
class DataInfo:
    """The facts of a data set.

    Attributes:
        name: as it was asked for.
        num_classes: number of classes.
        channels: number of channels.
        image_size: pixels a side of the square images that the network sees.
        mean: one number a channel, for images in [0, 1].
        std: one number a channel, for images in [0, 1].
        augment: "none", "crop" or "crop-flip".
        note: what a reader of results must know about these data.
        view: how image files become images; None for data in memory.
        class_names: in the order of the labels, where the data have names for them.
    """

    name: str
    num_classes: int
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str
    note: str = ""
    view: View | None = None
    class_names: tuple[str, ...] = ()


class Split(Protocol):
    """One set of labelled images. Positions are local to the split and count from 0."""

    def __len__(self) -> int: ...

    @property
    def index(self) -> Tensor:
        """(n,) int64 on the CPU: positions in the original training (or test) set."""

    @property
    def labels(self) -> Tensor:
        """(n,) int64 on the CPU."""

    def subset(self, positions: Tensor) -> Split:
        """The split of some positions, (m,) int64, in that order."""

    def train_batches(
        self, batches: Iterable[tuple[int, Tensor]], seed: int, rows: Rows = whole
    ) -> Iterator[Batch]:
        """Augmented batches on the device; the pairs are consumed lazily.

        Args:
            batches: pairs of a global step and (B,) int64 positions.
            seed: seed of the run.
            rows: from the size of a global batch to the rows that this process takes; the draws
                are those of the global batch.
        """

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """All images in order, not augmented, on the device."""


@dataclass(frozen=True)
class Data:
    """The splits of one data set.

    Attributes:
        info: its facts.
        train: the training images, without those held out.
        val: the images held out of training, by default ``min(1000, n // 10)``; None where that
            is 0.
        test: the test images.
        places_with_extra: above every index, where there are additional images.
        test_names: the names of the test images by index, such as their paths; None for images
            without names.
        take_note: what was noticed while images were read; empty if nothing new was.
    """

    info: DataInfo
    train: Split
    val: Split | None
    test: Split
    places_with_extra: int | None = None
    test_names: Callable[[], Sequence[str]] | None = None
    take_note: Callable[[], str] = str

    @property
    def places(self) -> int:
        """Above every index of a training image, those held out included."""
        if self.places_with_extra is not None:
            return self.places_with_extra
        return len(self.train) + (0 if self.val is None else len(self.val))


def resolve_augment(asked: str, auto: str) -> str:
    """The augmentation to use: ``auto`` where "auto" was asked for.

    Raises UsageError for an unknown name.
    """
    if asked == "auto":
        return auto
    if asked not in AUGMENTS:
        known = ("auto", *AUGMENTS)
        raise UsageError(
            f"augmentation {asked!r}: {did_you_mean(asked, known)}",
            fix=f"use one of {', '.join(known)}",
        )
    return asked


def require_size(name: str, native: int, asked: int | None) -> None:
    """Raise UsageError where another image size is asked for than the fixed one of the data."""
    if asked not in (None, native):
        raise UsageError(
            f"image size {asked}: the images of {name} are {native}x{native} and are not resized",
            fix=f"leave --image-size out, or write {native}; only image files are resized",
        )


def join_notes(*notes: str) -> str:
    """Several notes as one; empty ones are left out."""
    return "; ".join(note for note in notes if note)


def show_some(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def describe_copies(copies: Sequence[str], of: int) -> str:
    """A note on test images that are exact copies of training images; empty without copies.

    Args:
        copies: their names.
        of: the number of test images.
    """
    if not copies:
        return ""
    return f"{len(copies)} of {of} test images are copies of training images: {show_some(copies)}"
