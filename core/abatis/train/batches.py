"""How a run cuts its training images into the batches of an epoch."""

from __future__ import annotations

from torch import Tensor

from abatis.config.run_config import RunConfig
from abatis.data import Split, epoch_batches


def cut_epoch(config: RunConfig, images: Split, epoch: int) -> list[Tensor]:
    """Return the batches of an epoch, counted from 0: positions (B,) int64 each, in order.

    Args:
        config: Batch size, seed, order and updates of an epoch.
        images: The training images.
        epoch: From 0.
    """
    return epoch_batches(
        len(images),
        config.batch_size,
        config.seed,
        epoch,
        config.order,
        images.labels,
        config.epoch_updates,
    )
