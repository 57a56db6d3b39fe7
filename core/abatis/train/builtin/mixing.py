"""Mixup, cutmix and label smoothing by timm, over the global batch of all processes."""

from __future__ import annotations

from dataclasses import replace

import torch

from abatis.api.batch import Batch
from abatis.api.context import TrainerHooks
from abatis.api.randomness import seeded
from abatis.api.run import Run
from abatis.config.option_groups import MixConfig
from abatis.errors import UsageError
from abatis.system import distributed
from abatis.system.timm_import import timm


class Mixing(TrainerHooks):
    """Mixes every batch with its own reverse and gives it soft labels.

    The hard label of an image is then its label of the largest weight.
    """

    def __init__(self, config: MixConfig, run: Run) -> None:
        self.pairs = max(config.mixup, config.cutmix) > 0
        self.run = run
        self.mix = timm.data.Mixup(
            config.mixup,
            config.cutmix,
            prob=config.probability if self.pairs else 0.0,
            switch_prob=config.switch,
            label_smoothing=config.smoothing,
            num_classes=run.num_classes,
        )

    def transform_batch(self, batch: Batch) -> Batch:
        """The rows of the mixed global batch; raises UsageError if its images cannot be paired."""
        random, count = self.run.random, len(batch)
        size = random.global_size or count
        if size % 2:
            raise UsageError(
                f"mixup and cutmix mix pairs of images, and the batch has {size}",
                fix="choose an even --batch-size",
            )
        x, y = batch.x, batch.y
        if count < size:  # a partner may be an image of another process
            # timm mixes images with their reverse: a process gives it its rows and their partners
            x, y = (
                torch.cat([part, distributed.fetch_partners(part, size).flip(0)]) for part in (x, y)
            )
        with seeded(random.seed, "mix", random.step):  # timm draws from the global generators
            x, soft = self.mix(x.clone(), y)  # (N, C, H, W), (N, K); writes on its input
        x, soft = x[:count], soft[:count]
        return replace(batch, x=x, y=soft.argmax(1), y_soft=soft.to(x.dtype))
