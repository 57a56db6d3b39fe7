"""Training views of image files as timm makes them: a random crop, a policy such as RandAugment, an erased rectangle."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from abatis.data.info import AREA, ASPECT, DataInfo
from abatis.errors import UsageError
from abatis.system.timm_import import timm


class PolicyView:
    """An RGB image to (3, size, size) uint8; draws from the global generators. Raises UsageError for no policy of timm's."""

    def __init__(self, info: DataInfo) -> None:
        view, data = info.view, timm.data
        if info.augment == "none":
            raise UsageError(
                "--auto-augment and --erasing come behind a random crop", fix="drop --augment none"
            )
        try:
            self.crop, self.policy, _ = data.create_transform(
                info.image_size,
                is_training=True,
                separate=True,
                scale=AREA,
                ratio=ASPECT,
                hflip=0.5 if info.augment == "crop-flip" else 0.0,
                auto_augment=view.auto_augment or None,
                color_jitter=None,
                interpolation=view.interpolation,
                mean=info.mean,
                std=info.std,
            )
        except Exception as error:  # timm asserts, or looks words up in tables
            raise UsageError(
                f"--auto-augment {view.auto_augment}: timm knows no such policy ({type(error).__name__}: {error})",
                fix="write it like rand-m9-mstd0.5-inc1, augmix-m3 or original",
            ) from error
        self.erase = data.random_erasing.RandomErasing(view.erasing, mode="pixel", device="cpu")
        self.mean, self.std = (
            torch.tensor(values).view(3, 1, 1) for values in (info.mean, info.std)
        )

    def __call__(self, whole: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(self.policy(self.crop(whole)))).permute(2, 0, 1)
        # erased pixels are standard normal among normalised ones; the others come back as they were
        erased: Tensor = self.erase((pixels / 255 - self.mean) / self.std)
        return (erased * self.std + self.mean).clamp(0, 1).mul(255).round().to(torch.uint8)
