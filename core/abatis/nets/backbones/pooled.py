"""What our nets for small images share: trunk, mean over its last map, linear head, and timm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from abatis.data.statistics import CIFAR10_MEAN, CIFAR10_STD
from abatis.system.timm_import import timm

Trunk = Callable[[int], nn.Sequential]
"""From a number of channels to a net (B, C, H, W) -> (B, width, h, w) that begins with ``stem``."""

Entrypoint = TypeVar("Entrypoint", bound=Callable[..., nn.Module])

SHORT_NAMES: dict[str, str] = {}
"""The names that users write for our nets, to the names that timm knows; see :func:`register`."""


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


def register(short_name: str, **other: Any) -> Callable[[Entrypoint], Entrypoint]:
    """Make a net known: to timm under the name of its function, to users under ``short_name``.

    Args:
        short_name: What users write.
        other: Facts for timm in place of those of a net for CIFAR-10 with a stem.
    """

    def add(entrypoint: Entrypoint) -> Entrypoint:
        name = entrypoint.__name__
        facts = {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "mean": CIFAR10_MEAN,
            "std": CIFAR10_STD,
            "first_conv": "features.stem",
            "classifier": "fc",
            **other,
        }
        # timm reads the facts from a table of the function's module
        table = sys.modules[entrypoint.__module__].__dict__.setdefault("default_cfgs", {})
        table.update(timm.models.generate_default_cfgs({name: facts}))
        timm.models.register_model(entrypoint)
        SHORT_NAMES[short_name] = name
        return entrypoint

    return add


def build_net(name: str, pretrained: bool, trunk: Trunk, width: int, **options: Any) -> PooledNet:
    """What an entrypoint returns; raises RuntimeError for pretrained weights: there are none."""
    net: PooledNet = timm.models.build_model_with_cfg(
        PooledNet, name, pretrained, trunk=trunk, width=width, **options
    )
    return net
