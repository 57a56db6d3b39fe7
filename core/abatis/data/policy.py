"""Training views of image files as timm makes them.

They are a random crop, a policy such as RandAugment, and an erased rectangle.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from abatis.data.info import AREA, ASPECT, DataInfo, View
from abatis.errors import UsageError
from abatis.system.timm_import import timm


class PolicyView:
    """An RGB image to (3, size, size) uint8; draws from the global generators.

    Raises UsageError for a policy that timm does not have.
    """

    def __init__(self, info: DataInfo, view: View) -> None:
        if info.augment == "none":
            raise UsageError(
                "--auto-augment and --erasing need a random crop before them",
                fix="drop --augment none",
            )
        try:
            self.crop, self.policy, _ = timm.data.create_transform(
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
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(
                f"--auto-augment {view.auto_augment}: timm has no such policy ({reason})",
                fix="write it like rand-m9-mstd0.5-inc1, augmix-m3 or original",
            ) from error
        self.erase = timm.data.random_erasing.RandomErasing(
            view.erasing, mode="pixel", device="cpu"
        )
        self.mean, self.std = (
            torch.tensor(values).view(3, 1, 1) for values in (info.mean, info.std)
        )

    def __call__(self, whole: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(self.policy(self.crop(whole)))).permute(2, 0, 1)
        # erased pixels are standard normal among normalised ones; the others come back unchanged
        erased: Tensor = self.erase((pixels / 255 - self.mean) / self.std)
        return (erased * self.std + self.mean).clamp(0, 1).mul(255).round().to(torch.uint8)
