"""Mixup, cutmix and label smoothing by timm, over the global batch of all processes."""

from __future__ import annotations

from dataclasses import replace

from abatis.api.batch import Batch
from abatis.api.context import TrainerHooks
from abatis.api.randomness import seeded
from abatis.api.run import Run
from abatis.config.option_groups import MixConfig
from abatis.errors import UsageError
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
        # a partner may be an image of another process
        x = self.run.gather(batch.x)
        y = self.run.gather(batch.y)
        if len(y) % 2:
            raise UsageError(
                f"mixup and cutmix mix pairs of images, and the batch has {len(y)}",
                fix="choose an even --batch-size",
            )
        random = self.run.random
        with seeded(random.seed, "mix", random.step):
            x, soft = self.mix(x.clone(), y)  # (N, C, H, W), (N, K); writes on its input
        rows = random.rows
        return replace(batch, x=x[rows], y=soft.argmax(1)[rows], y_soft=soft[rows].to(x.dtype))
