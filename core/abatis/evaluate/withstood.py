"""What is kept of adversarial images: those that did not fool, and how the others were answered."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from abatis.api.randomness import generator
from abatis.evaluate.abstention import find_abstained
from abatis.evaluate.album import Album
from abatis.system import distributed

BYTES = 1 << 27  # of the images of one attack


@dataclass
class Withstood:
    """Images by attack; of too many, a random choice of points.

    Args:
        n: number of points.
        seed: of the choice.
        classes: of the data.
        album: takes the images of a few points, for pictures.

    Attributes:
        refused: (n,) bool: on some image of the ball the network abstained.
        accepted: (n,) bool: for some image of the ball it named a wrong class.
    """

    n: int
    seed: int
    classes: int
    album: Album = field(default_factory=Album)
    parts: dict[str, list[tuple[Tensor, ...]]] = field(default_factory=dict)
    _rank: Tensor | None = None

    def __post_init__(self) -> None:
        self.refused = torch.zeros(self.n, dtype=torch.bool)
        self.accepted = self.refused.clone()

    def note_broken(
        self, name: str, places: Tensor, images: Tensor, labels: Tensor, logits: Tensor
    ) -> None:
        """See :meth:`~abatis.evaluate.judge.Keeper.note_broken`."""
        self.album.take(name, places, images, labels, logits)
        abstained = find_abstained(logits, self.classes).cpu()
        self.refused[places[abstained]] = True
        self.accepted[places[~abstained]] = True

    def find_only_refused(self) -> Tensor:
        """Return the points that are broken by abstentions alone, (n,) bool, in any process."""
        refused, accepted = (
            ~distributed.all_agree(~flags) for flags in (self.refused, self.accepted)
        )
        return refused & ~accepted

    def keep(
        self, name: str, places: Tensor, images: Tensor, labels: Tensor, logits: Tensor
    ) -> None:
        """Keep the images of an attack.

        Args:
            name: of the attack.
            places: of their points, (B,) int64.
            images: (B, C, H, W).
            labels: (B,).
            logits: what the network said of them, (B, K).
        """
        self.album.take(name, places, images, labels, logits)
        if self._rank is None:
            self._rank = torch.randperm(self.n, generator=generator(self.seed, "stranger"))
        most = max(1, BYTES // (4 * images[0].numel())) if len(images) else 1
        rows = (self._rank[places] < most).nonzero().flatten()
        if len(rows):
            kept = (places, images.detach(), labels, logits.detach().float())
            self.parts.setdefault(name, []).append(tuple(one.cpu()[rows].clone() for one in kept))

    def forget(self, name: str) -> None:
        """Drop the images of an attack, which starts over."""
        self.parts.pop(name, None)

    def collect(self, robust: Tensor) -> tuple[Tensor, ...] | None:
        """Return places, images, labels and logits of the points that stand, (n,) bool."""
        columns = [part for parts in self.parts.values() for part in parts]
        if not columns:
            return None
        places, images, labels, logits = (torch.cat(one) for one in zip(*columns, strict=True))
        rows = robust[places].nonzero().flatten()
        if not len(rows):
            return None
        return places[rows], images[rows], labels[rows], logits[rows]


@dataclass(frozen=True)
class Part:
    """The images of some of the points, kept among all of them.

    Args:
        whole: of all points.
        positions: of the points, (m,) int64.
    """

    whole: Withstood
    positions: Tensor

    def keep(
        self, name: str, places: Tensor, images: Tensor, labels: Tensor, logits: Tensor
    ) -> None:
        """See :meth:`Withstood.keep`."""
        self.whole.keep(name, self.positions[places.cpu()], images, labels, logits)

    def forget(self, name: str) -> None:
        """See :meth:`Withstood.forget`."""
        self.whole.forget(name)

    def note_broken(
        self, name: str, places: Tensor, images: Tensor, labels: Tensor, logits: Tensor
    ) -> None:
        """See :meth:`~abatis.evaluate.judge.Keeper.note_broken`."""
        self.whole.note_broken(name, self.positions[places.cpu()], images, labels, logits)
