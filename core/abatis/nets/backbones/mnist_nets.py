"""Nets for small images of one size, as margin methods are published with on MNIST.

The linear net, the perceptron of 1,024 units and the net of four convolutions are those of Wu and
Yu (arXiv 1907.11780); the perceptron of 800-800 units and LeNet are those of Yan, Guo and Zhang
(TPAMI 2019). None of them has batch norm. Sizes below are for images of 1x28x28.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abatis.data.statistics import MNIST_MEAN, MNIST_STD
from abatis.nets.backbones.own_nets import register

Trunk = Callable[[int, int], nn.Sequential]
"""From channels and pixels a side to a net (B, C, H, H) -> (B, width)."""


class FlatNet(nn.Module):
    """Normalised images (B, C, H, H) of one size to logits (B, K).

    Args:
        trunk: Makes everything before the head.
        num_classes: K, the number of logits.
        in_chans: C.
        img_size: H, pixels a side; as a pair of them, too, as timm gives it.
        init: ``he``: all weights are normal with variance 2 / fan-in, and biases 0 (He et al., ICCV
            2015), as Yan, Guo and Zhang have it; ``torch``: torch's own, as Wu and Yu have it.
    """

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: int | tuple[int, int] = 28,
        init: str = "he",
    ) -> None:
        super().__init__()
        self.init = init
        side = img_size if isinstance(img_size, int) else img_size[0]
        self.features = trunk(in_chans, side)
        with torch.no_grad():
            self.num_features = self.features(torch.zeros(1, in_chans, side, side)).shape[1]
        self._initialise(self.features)
        self.reset_classifier(num_classes)

    def _initialise(self, module: nn.Module) -> None:
        for part in module.modules() if self.init == "he" else ():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight)
                assert part.bias is not None
                nn.init.zeros_(part.bias)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, or remove it for 0 classes.

        Raises ValueError for a pooling: these nets have none.
        """
        if global_pool:
            raise ValueError(f"global_pool={global_pool!r}: these nets do not pool")
        self.num_classes = num_classes
        like = next(self.features.parameters(), torch.empty(0))
        self.fc = (
            nn.Linear(self.num_features, num_classes).to(like) if num_classes else nn.Identity()
        )
        self._initialise(self.fc)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.fc

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head reads: (B, width)."""
        features: Tensor = self.features(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, K) from what the head reads, or that itself with ``pre_logits``."""
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _perceptron(widths: Sequence[int]) -> Trunk:
    """Hidden layers of these widths, each with a ReLU."""

    def trunk(in_chans: int, side: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        before = in_chans * side**2
        for width in widths:
            layers += [nn.Linear(before, width), nn.ReLU(inplace=True)]
            before = width
        return nn.Sequential(*layers)

    return trunk


def _convolutions(in_chans: int, side: int) -> nn.Sequential:
    """3x3 convolutions without padding, 32-32-pool-64-64-pool, then layers of 200 and 200 units."""
    layers: list[nn.Module] = []
    channels = in_chans
    for width in (32, 64):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
        side = (side - 4) // 2
    layers.append(nn.Flatten())
    before = channels * side**2
    for _ in range(2):
        layers += [nn.Linear(before, 200), nn.ReLU(inplace=True)]
        before = 200
    return nn.Sequential(*layers)


def _lenet(in_chans: int, side: int) -> nn.Sequential:
    """5x5 convolutions of 20 and 50 channels with pooling and no ReLU, then 500 units with one."""
    last = ((side - 4) // 2 - 4) // 2  # pixels a side of the last map
    return nn.Sequential(
        nn.Conv2d(in_chans, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * last**2, 500),
        nn.ReLU(inplace=True),
    )


FACTS = {
    "input_size": (1, 28, 28),
    "fixed_input_size": True,
    "first_conv": None,
    "mean": MNIST_MEAN,
    "std": MNIST_STD,
}


@register("mnist-linear", **FACTS)
def mnist_linear(**options: Any) -> FlatNet:
    """784-10: a linear net."""
    return FlatNet(_perceptron([]), **options)


@register("mnist-mlp1024", **FACTS)
def mnist_mlp1024(**options: Any) -> FlatNet:
    """784-1024-10."""
    return FlatNet(_perceptron([1024]), **options)


@register("mnist-cnn", **FACTS)
def mnist_cnn(**options: Any) -> FlatNet:
    """Four convolutions and three linear layers, 1024-200-200-10."""
    return FlatNet(_convolutions, **options)


@register("mnist-mlp800", **FACTS)
def mnist_mlp800(**options: Any) -> FlatNet:
    """784-800-800-10."""
    return FlatNet(_perceptron([800, 800]), **options)


@register("mnist-lenet", **FACTS)
def mnist_lenet(**options: Any) -> FlatNet:
    """LeNet: 20 and 50 filters of 5x5, 500 units."""
    return FlatNet(_lenet, **options)
