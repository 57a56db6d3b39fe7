"""How a run cuts its training images into the batches of an epoch."""

from __future__ import annotations

from torch import Tensor

from abatis.config.run_config import RunConfig
from abatis.data import Split, epoch_batches
from abatis.data.extra import count_own, fill_up


def cut_epoch(config: RunConfig, images: Split, epoch: int) -> list[Tensor]:
    """Return the batches of an epoch, counted from 0: positions (B,) int64 each, in order.

    With additional images and an epoch of a number of updates, a pass takes the training set's own
    images as many at a time as a batch has of them; the last batch of a pass is filled up.

    Args:
        config: Batch size, seed, order and updates of an epoch, and the additional images.
        images: The training images.
        epoch: From 0.
    """
    size, fraction = config.batch_size, config.extra.fraction
    filled = config.extra.file is not None and config.epoch_updates is not None
    batches = epoch_batches(
        len(images),
        count_own(size, fraction) if filled else size,
        config.seed,
        epoch,
        config.order,
        images.labels,
        config.epoch_updates,
        rest=filled,
    )
    return fill_up(batches, size, fraction) if filled else batches
