"""Mixup, cutmix and label smoothing (timm's), over the global batch whatever the number of processes."""

from __future__ import annotations

from dataclasses import replace

from abatis.api.batch import Batch
from abatis.api.context import Run, TrainerHooks
from abatis.api.randomness import seeded
from abatis.config.run_config import MixConfig
from abatis.errors import UsageError
from abatis.system.timm_import import timm


class Mixing(TrainerHooks):
    """Mixes every batch with its own reverse and gives it soft labels; the hard label is then the heaviest of each."""

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
        """The rows of the mixed global batch; raises UsageError where its images cannot be paired."""
        x, y = (
            self.run.gather(batch.x),
            self.run.gather(batch.y),
        )  # a partner may be another process's image
        if len(y) % 2:
            raise UsageError(
                f"mixup and cutmix pair the images of a batch, and there are {len(y)}",
                fix="an even --batch-size",
            )
        random = self.run.random
        with seeded(random.seed, "mix", random.step):
            x, soft = self.mix(x.clone(), y)  # (N, C, H, W), (N, K); it writes on what it is given
        rows = random.rows
        return replace(batch, x=x[rows], y=soft.argmax(1)[rows], y_soft=soft[rows].to(x.dtype))
