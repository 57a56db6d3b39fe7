"""A batch of images, and what an attacker makes of it. Loads without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch of B images with K classes.

    Attributes:
        x: images, (B, C, H, W) float in [0, 1].
        y: labels, (B,) int64. Where labels are mixed or smoothed, the heaviest class of each.
        index: positions in the training set, (B,) int64. Additional images are numbered after it.
        y_soft: label distributions, (B, K), where labels are mixed or smoothed, else None.
        origin: where there are additional images, (B,) int64: 0 for the training set, 1 for them.
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
        """The target of a cross-entropy: the soft labels (B, K) if there are any, else y (B,)."""
        return self.y if self.y_soft is None else self.y_soft

    def rows(self, rows: slice) -> Batch:
        """Return the batch of some of the rows."""
        soft = None if self.y_soft is None else self.y_soft[rows]
        origin = None if self.origin is None else self.origin[rows]
        return Batch(self.x[rows], self.y[rows], self.index[rows], soft, origin)


SHOWN = "attack/"
"""How the names begin of what an attacker shows in the metrics."""


@dataclass(frozen=True)
class Attacked:
    """What an attacker returns.

    Attributes:
        x: adversarial images, (B, C, H, W), detached, in [0, 1] and in the ball.
        info: what the attacker reports, by name: per-sample tensors (B, ...), which losses find in
            ``ctx.info``.
        threat: where the run has several threats, which of ``run.threats`` each image belongs to,
            (B,) int64; None for the first one.
        shown: names in ``info`` whose mean over an epoch is in its metrics, as ``attack/NAME``.
            They are the same in every step.
        images: further images that losses use, by name: (B, C, H, W) each, detached, in [0, 1] and
            in the ball of one of the run's threats. Losses find them in ``ctx.images``.
    """

    x: Tensor
    info: Mapping[str, Tensor] = field(default_factory=dict)
    shown: Sequence[str] = ()
    threat: Tensor | None = None
    images: Mapping[str, Tensor] = field(default_factory=dict)
