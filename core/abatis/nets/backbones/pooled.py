"""What our nets for small images share: a trunk, the mean over its last map, a linear head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Trunk = Callable[[int], nn.Sequential]
"""From a number of channels to a net (B, C, H, W) -> (B, width, h, w) that begins with ``stem``."""


class PooledNet(nn.Module):
    """Normalised images (B, C, H, W) to logits (B, K), for any H and W.

    The head is named and replaced as in timm's nets. The convolutions begin normal by fan-out (He
    et al., ICCV 2015; ``init="he"``), or as torch makes them (``init="torch"``).

    Attributes:
        design: options that change the function and not the names and shapes of the weights.
    """

    design: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        trunk: Trunk,
        width: int,
        num_classes: int = 10,
        in_chans: int = 3,
        init: str = "he",
    ) -> None:
        super().__init__()
        self.in_chans, self.num_features = in_chans, width
        self.features = trunk(in_chans)
        self.reset_classifier(num_classes)
        for module in self.features.modules():
            if init == "he" and isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, or remove it for 0 classes.

        Raises ValueError for any pooling but the mean.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool={global_pool!r}: these nets support only 'avg'")
        self.num_classes = num_classes
        like = next(self.features.parameters())
        self.fc = (
            nn.Linear(self.num_features, num_classes).to(like) if num_classes else nn.Identity()
        )

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.fc

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map: (B, width, h, w)."""
        features: Tensor = self.features(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, K) from the last map, or its mean (B, width) with ``pre_logits``."""
        # adaptive pooling has no deterministic backward on CUDA, and x.mean a slow one in
        # channels_last
        pooled = F.avg_pool2d(x, x.shape[2:]).flatten(1)
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def conv3x3(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias: in our nets a batch norm follows each of them."""
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
