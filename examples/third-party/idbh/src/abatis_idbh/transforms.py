"""Transforms before the attack: IDBH (Li & Spratling, ICLR 2023), cutmix (Yun et al., ICCV 2019).

crop-shift removes up to ``shift`` rows and columns at the borders and places the rest at random
inside the frame. cutmix copies a rectangle from another image of the global batch; the labels are
mixed in proportion to the pixels. Random numbers are drawn per sample.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import Batch, Run, TrainerHooks
from abatis_idbh import IdbhConfig

LEAST_AREA = 0.02
LONGEST = 3.3  # ratio of the sides of an erased rectangle


class Idbh(TrainerHooks):
    """The trainer hook ``idbh``: flip, crop-shift, colour, erasing, cutmix, in this order."""

    def __init__(self, run: Run, config: IdbhConfig) -> None:
        self.run, self.config = run, config
        self.fill = 0.5 if config.fill == "grey" else 0.0

    def transform_batch(self, batch: Batch) -> Batch:
        config, x = self.config, batch.x
        x = torch.where(_wide(self._draws(x, "flip", 1)[:, 0] < config.flip), x.flip(3), x)
        x = crop_shift(x, self._draws(x, "shift", 6), config.shift, self.fill)
        x = colour(x, self._draws(x, "colour", 2), config.colour)
        draws = self._draws(x, "erase", 5)
        erased = rectangles(x, *_erased_sides(draws, config.erase_area), draws[:, 2:4])  # (B, H, W)
        x = torch.where(
            ((draws[:, 4] < config.erase)[:, None, None] & erased)[:, None], self.fill, x
        )
        batch = replace(batch, x=x)
        return self._cutmix(batch) if config.cutmix else batch

    def _draws(self, like: Tensor, purpose: str, count: int) -> Tensor:
        """Draw numbers in [0, 1): (B, count)."""
        return self.run.random.uniform(f"idbh/{purpose}", like.new_empty(len(like), count))

    def _cutmix(self, batch: Batch) -> Batch:
        draws = self._draws(batch.x, "cutmix", 5)
        # (B,) rows of the global batch
        partner = partners(self.run.gather(draws[:, 0]), draws[:, 0])
        # fractions of the sides; the fraction of pixels kept is uniform, Beta(1, 1)
        side = (1 - draws[:, 1]).sqrt()
        mixed = (draws[:, 4] < self.config.cutmix)[:, None, None]
        taken = rectangles(batch.x, side, side, draws[:, 2:4]) & mixed  # (B, H, W)
        soft = batch.y_soft
        labels = F.one_hot(batch.y, self.run.num_classes) if soft is None else soft
        labels = labels.to(batch.x.dtype)  # (B, K)
        others = self.run.gather(batch.x)[partner], self.run.gather(labels)[partner]
        share = taken.to(batch.x.dtype).mean((1, 2))[:, None]  # (B, 1)
        soft = (1 - share) * labels + share * others[1]
        return replace(
            batch, x=torch.where(taken[:, None], others[0], batch.x), y=soft.argmax(1), y_soft=soft
        )


def crop_shift(x: Tensor, draws: Tensor, most: int, fill: float) -> Tensor:
    """Remove strips of (B, C, H, W) and place the rest at random; draws (B, 6) in [0, 1)."""
    for axis, (lost, cut, place) in zip(
        (2, 3), (draws[:, :3].unbind(1), draws[:, 3:].unbind(1)), strict=True
    ):
        size = x.shape[axis]
        strips = (lost * (min(most, size - 1) + 1)).long()[:, None]  # (B, 1) pixels to remove
        before = (cut[:, None] * (strips + 1)).long()  # (B, 1)
        start = (place[:, None] * (strips + 1)).long()  # (B, 1)
        positions = torch.arange(size, device=x.device)  # (size,)
        inside = (positions >= start) & (positions < start + size - strips)  # (B, size)
        source = (positions - start + before).clamp(0, size - 1)
        shape = (len(x), 1, size, 1) if axis == 2 else (len(x), 1, 1, size)
        moved = x.gather(axis, source.view(shape).expand_as(x))
        x = torch.where(inside.view(shape), moved, fill)
    return x


def colour(x: Tensor, draws: Tensor, most: float) -> Tensor:
    """Scale brightness or contrast of (B, C, H, W) by 1 - most to 1 + most; draws (B, 2)."""
    factor = _wide(1 + most * (2 * draws[:, 0] - 1))
    centre = torch.where(_wide(draws[:, 1] < 0.5), 0, x.mean((1, 2, 3), keepdim=True))
    return (centre + factor * (x - centre)).clamp(0, 1)


def rectangles(x: Tensor, height: Tensor, width: Tensor, centres: Tensor) -> Tensor:
    """Return which pixels lie in a rectangle: (B, H, W) bool.

    Args:
        x: the images, (B, C, H, W).
        height: heights as fractions of the image's, (B,).
        width: widths as fractions of the image's, (B,).
        centres: in [0, 1), (B, 2).
    """
    inside = []
    for size, side, centre in zip(x.shape[2:], (height, width), centres.unbind(1), strict=True):
        length, middle = (side * size).round().long(), (centre * size).long()  # (B,) pixels
        first = (middle - length // 2)[:, None]
        positions = torch.arange(size, device=x.device)
        inside.append((positions >= first) & (positions < first + length[:, None]))  # (B, size)
    return inside[0][:, :, None] & inside[1][:, None, :]


def partners(everyone: Tensor, own: Tensor) -> Tensor:
    """Return for each own draw the row of the next larger one in the global batch, cyclically.

    Args:
        everyone: the draws of the global batch, (N,).
        own: the draws of these samples, (B,).
    """
    order = everyone.argsort()
    after = torch.searchsorted(everyone[order], own.contiguous(), right=True) % len(order)
    return order[after]


def _erased_sides(draws: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Return height and width of erased rectangles as fractions, from draws (B, 2+): (B,) each."""
    area = LEAST_AREA + draws[:, 0] * max(most - LEAST_AREA, 0)
    ratio = LONGEST ** (2 * draws[:, 1] - 1)
    return (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)


def _wide(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]
