"""A digest of a split, by which a run that resumes knows its own images again."""

from __future__ import annotations

import hashlib

import torch

from abatis.data.info import Split
from abatis.data.order import choose_stratified

LOOKED_AT = 256  # images whose pixels count; of all others the place and the label count
TOGETHER = 32  # images at a time
LEVELS = 65535  # pixels are compared in 16 bits, so that no rounding of a device matters


def digest_split(split: Split) -> str:
    """The sha256 of the place and label of every image, and of the pixels of some of them."""
    found = hashlib.sha256()
    for numbers in (split.index, split.labels):
        found.update(numbers.numpy().tobytes())
    for batch in split.subset(choose_stratified(split.labels, LOOKED_AT)).eval_batches(TOGETHER):
        pixels = (batch.x.float() * LEVELS).round().to(torch.int32)
        found.update(pixels.cpu().numpy().tobytes())
    return f"sha256:{found.hexdigest()}"
