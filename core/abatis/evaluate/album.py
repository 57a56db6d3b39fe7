"""What the attacks made of a few test images, kept while they run, for pictures in the report."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from abatis.data.order import choose_stratified
from abatis.system import distributed

SHOWN = 12  # images, of all classes, the same in every evaluation of the same points
SIDE = 56  # pixels a side at most; larger images are scaled down by a whole number
LEVELS = 65535  # of a pixel in a file


@dataclass(frozen=True)
class Kept:
    """One adversarial image.

    Attributes:
        attack: that made it.
        image: (C, h, w) on the CPU, scaled down.
        answer: the class that the network named, and its probability.
        margin: the logit of the right class above the others.
    """

    attack: str
    image: Tensor
    answer: tuple[int, float]
    margin: float


@dataclass
class Album:
    """The adversarial images of the shown points: what broke them, else what came nearest.

    Attributes:
        shown: positions among all points, (m,) int64.
        probabilities: are the network's outputs probabilities already?
    """

    shown: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    probabilities: bool = False
    broken: dict[int, Kept] = field(default_factory=dict)
    withstood: dict[int, Kept] = field(default_factory=dict)

    def open(self, labels: Tensor, probabilities: bool) -> None:
        """Choose the images to show, of (n,) labels; what is kept of others is dropped."""
        self.shown, self.probabilities = choose_stratified(labels, SHOWN), probabilities

    def take(self, attack: str, places: Tensor, images: Tensor, y: Tensor, logits: Tensor) -> None:
        """Take the images of an attack, those of the shown points alone.

        Args:
            attack: its name.
            places: of the points, (B,) int64 on the CPU.
            images: (B, C, H, W).
            y: their labels, (B,).
            logits: (B, K); the margin says whether an image broke its point.
        """
        for row in torch.isin(places, self.shown).nonzero().flatten().tolist():
            place, target = int(places[row]), int(y[row])
            scores = logits[row].detach().float().cpu()
            margin = float(scores[target] - scores[torch.arange(len(scores)) != target].max())
            answer = read_answer(scores, self.probabilities)
            is_broken = not margin > 0
            into = self.broken if is_broken else self.withstood
            before = into.get(place)
            if before is None or (not is_broken and margin < before.margin):
                into[place] = Kept(attack, scale_down(images[row]), answer, margin)

    def gather(self) -> None:
        """Bring together what all processes kept."""
        for other in distributed.collect(self):
            self.broken = {**other.broken, **self.broken}
            self.withstood = {**other.withstood, **self.withstood}

    def to_json(self) -> dict[str, Any]:
        """Return plain types."""
        return {
            name: {str(place): _to_json(kept) for place, kept in kinds.items()}
            for name, kinds in (("broken", self.broken), ("withstood", self.withstood))
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Album:
        """What :meth:`to_json` returned."""
        kinds = (
            {int(place): _from_json(one) for place, one in table.get(name, {}).items()}
            for name in ("broken", "withstood")
        )
        album = cls()
        album.broken, album.withstood = kinds
        return album


def read_answer(scores: Tensor, probabilities: bool) -> tuple[int, float]:
    """The class on top of (K,) outputs, and its probability."""
    shares = scores if probabilities else scores.softmax(0)
    top = int(scores.argmax())
    return top, float(shares[top])


def scale_down(image: Tensor) -> Tensor:
    """An image (C, H, W) of at most :data:`SIDE` pixels a side, by means over squares, on the CPU.

    Rows and columns that are left over at the end are dropped.
    """
    small = image.detach().float().cpu()
    times = -(-max(small.shape[1:]) // SIDE)
    return small if times == 1 else F.avg_pool2d(small, times)


def _to_json(kept: Kept) -> dict[str, Any]:
    pixels = (kept.image.clamp(0, 1) * LEVELS).round().numpy().astype("<u2")
    return {
        "attack": kept.attack,
        "shape": list(kept.image.shape),
        "pixels": b64encode(pixels.tobytes()).decode(),
        "answer": list(kept.answer),
        "margin": kept.margin,
    }


def _from_json(table: Mapping[str, Any]) -> Kept:
    pixels = np.frombuffer(b64decode(table["pixels"]), "<u2").reshape(table["shape"])
    image = torch.from_numpy(pixels.astype(np.float32) / LEVELS)
    predicted, probability = table["answer"]
    return Kept(table["attack"], image, (int(predicted), float(probability)), table["margin"])
