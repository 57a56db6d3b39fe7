"""Mixup, cutmix and label smoothing (timm's), over the global batch whatever the number of processes."""

from __future__ import annotations

from dataclasses import replace

from abatis import processes
from abatis.config import MixConfig
from abatis.errors import UsageError
from abatis.randomness import Randomness, seeded
from abatis.types import Batch, TrainerHooks
from abatis.vision import timm


class Mixing(TrainerHooks):
    """Mixes every batch with its own reverse and gives it soft labels; the hard label is then the heaviest of each."""

    def __init__(self, config: MixConfig, num_classes: int, random: Randomness) -> None:
        self.pairs = max(config.mixup, config.cutmix) > 0
        self.random = random
        self.mix = timm().data.Mixup(
            config.mixup, config.cutmix, prob=config.probability if self.pairs else 0.0, switch_prob=config.switch,
            label_smoothing=config.smoothing, num_classes=num_classes,
        )  # fmt: skip

    def transform_batch(self, batch: Batch) -> Batch:
        """The rows of the mixed global batch; raises UsageError where its images cannot be paired."""
        of = len(batch) if self.random.global_size is None else self.random.global_size
        if of % 2:
            raise UsageError(f"mixup and cutmix pair the images of a batch, and there are {of}", fix="an even --batch-size")
        # a partner may be another process's image
        x, y = processes.gathered(batch.x, of), processes.gathered(batch.y, of)
        with seeded(self.random.seed, "mix", self.random.step):
            x, soft = self.mix(x, y)  # (of, C, H, W), (of, K)
        rows = self.random.rows
        return replace(batch, x=x[rows], y=soft.argmax(1)[rows], y_soft=soft[rows].to(x.dtype))
