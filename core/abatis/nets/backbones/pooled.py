"""What our CIFAR nets share: a convolutional trunk, the mean over its last map, a linear head, a place in timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from abatis.system.timm_import import timm

Trunk = Callable[[int], nn.Sequential]
"""Number of input channels to a net (B, C, H, W) -> (B, width, h, w); its first convolution is called ``stem``."""

Entrypoint = TypeVar("Entrypoint", bound=Callable[..., nn.Module])

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)  # of the CIFAR-10 training images


class PooledNet(nn.Module):
    """Normalised images (B, C, H, W) to logits (B, K), any H and W; the head is named and replaced as timm does it."""

    def __init__(self, trunk: Trunk, width: int, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.in_chans, self.num_features = in_chans, width
        self.features = trunk(in_chans)
        self.reset_classifier(num_classes)
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head in place, none at 0 classes; raises ValueError for any pooling but the mean."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool={global_pool!r}: these nets know the mean only")
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
        # adaptive pooling would have no deterministic backward on CUDA, and that of x.mean is slow in channels_last
        pooled = F.avg_pool2d(x, x.shape[2:]).flatten(1)
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def conv3x3(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias: every one of ours meets a batch norm."""
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)


def cifar_cfgs(*names: str) -> Any:
    """The ``default_cfgs`` of a module that registers these names."""
    cfg = {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "mean": MEAN,
        "std": STD,
        "first_conv": "features.stem",
        "classifier": "fc",
    }
    return timm.models.generate_default_cfgs(dict.fromkeys(names, cfg))


def register(entrypoint: Entrypoint) -> Entrypoint:
    """Make a function's net known to timm under the function's name."""
    timm.models.register_model(entrypoint)
    return entrypoint


def cifar_net(name: str, pretrained: bool, trunk: Trunk, width: int, **options: Any) -> PooledNet:
    """What an entrypoint returns; raises RuntimeError where pretrained weights are asked for, there are none."""
    net: PooledNet = timm.models.build_model_with_cfg(
        PooledNet, name, pretrained, trunk=trunk, width=width, **options
    )
    return net
