"""Where corrupted images come from: made here from the clean ones, or the published files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.errors import DataError, UsageError
from abatis.evaluate.corruptions.frost import MISSING, read_frost
from abatis.evaluate.corruptions.operations import Bytes, corrupt, draw_for
from abatis.evaluate.corruptions.published import NAMES, PARAMETERS
from abatis.evaluate.judge import Points


class CorruptionSource(Protocol):
    """Gives the points with a corruption."""

    @property
    def described(self) -> str:
        """In words, for tables."""

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why a corruption is not there, by its name."""

    @property
    def settings(self) -> dict[str, object]:
        """What decides the images besides the clean ones, in plain types."""

    @property
    def has_mce(self) -> bool:
        """Are these the published images of ImageNet-C, so that AlexNet's errors apply?"""

    def corrupt(self, name: str, severity: int) -> Points:
        """The points with a corruption, in their order."""


@dataclass(frozen=True)
class CorruptedHere:
    """Corruptions that are computed when they are asked for.

    Args:
        points: the clean ones, of 3 channels and 32x32 or 224x224 pixels.
        seed: of the random draws; those of an image depend on its index alone.
    """

    points: Points
    seed: int
    has_mce: bool = False

    def __post_init__(self) -> None:
        _, channels, height, width = next(iter(self.points.eval_batches(1))).x.shape
        if channels != 3:
            raise UsageError(
                f"the corruptions are published for colour images; these have {channels} channel",
                fix="leave out --corruptions, or give data of 3 channels",
            )
        if height != width or height not in PARAMETERS:
            raise UsageError(
                "corruption parameters are published for 32x32 and 224x224 images, and these are "
                f"{height}x{width}",
                fix="image folders can be read at one of these sizes with --image-size; or give "
                "corrupted files: --corruptions PATH",
            )

    @property
    def described(self) -> str:
        """In words."""
        return f"corruptions made here, seed {self.seed}"

    @property
    def left_out(self) -> Mapping[str, str]:
        """Frost, where there are no photographs."""
        return {} if read_frost() else {"frost": MISSING}

    @property
    def settings(self) -> dict[str, object]:
        """The seed."""
        return {"made": "here", "seed": self.seed}

    def corrupt(self, name: str, severity: int) -> Points:
        """See :class:`CorruptionSource`."""
        return _Corrupted(self.points, name, severity, self.seed)


@dataclass(frozen=True)
class _Corrupted:
    """Points that are corrupted batch by batch."""

    points: Points
    name: str
    severity: int
    seed: int

    def __len__(self) -> int:
        return len(self.points)

    def subset(self, positions: Tensor) -> Points:
        """The points at some positions, (m,) int64."""
        return _Corrupted(self.points.subset(positions), self.name, self.severity, self.seed)

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """All points in order."""
        for batch in self.points.eval_batches(batch_size):
            pixels = (batch.x.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            images = [
                torch.from_numpy(self._corrupt_one(image, index).copy())
                for image, index in zip(pixels, batch.index.tolist(), strict=True)
            ]
            x = torch.stack(images).permute(0, 3, 1, 2).to(batch.x) / 255
            yield Batch(x.contiguous(), batch.y, batch.index)

    def _corrupt_one(self, pixels: Bytes, index: int) -> Bytes:
        draws = draw_for(self.seed, self.name, self.severity, index)
        return corrupt(pixels, self.name, self.severity, draws, read_frost())


def check_names(found: list[str], where: str) -> None:
    """Raise DataError where none of the fifteen corruptions is there."""
    if not set(found) & set(NAMES):
        raise DataError(
            "there is no corruption here",
            where=where,
            fix=f"name the folder that holds {NAMES[0]}.npy (CIFAR), or {NAMES[0]}/1 (ImageNet)",
        )
