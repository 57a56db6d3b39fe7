"""A batch of images, and what an attacker makes of it. Loads without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch of images.

    x: (B, C, H, W) float in [0, 1]; y: (B,) int64; index: (B,) int64, positions in the training set;
    y_soft: (B, K) label distributions where labels were mixed or smoothed, y then being the heaviest of each;
    origin: (B,) int64 where there are several sources, 0 for the training set and 1 for additional images, whose index goes on
    behind the training set's.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    y_soft: Tensor | None = None
    origin: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def target(self) -> Tensor:
        """What a cross-entropy compares with: the soft labels (B, K) where there are any, else the hard ones (B,)."""
        return self.y if self.y_soft is None else self.y_soft

    def rows(self, rows: slice) -> Batch:
        """The batch of some rows."""
        soft = None if self.y_soft is None else self.y_soft[rows]
        origin = None if self.origin is None else self.origin[rows]
        return Batch(self.x[rows], self.y[rows], self.index[rows], soft, origin)


@dataclass(frozen=True)
class Attacked:
    """What an attacker returns: x (B, C, H, W), detached, in [0, 1] and in the ball; info: named per-sample tensors (B,)."""

    x: Tensor
    info: Mapping[str, Tensor] = field(default_factory=dict)
