"""A small convolutional net for MNIST: two strided convolutions and one hidden layer."""

from __future__ import annotations

from torch import nn


def make(num_classes: int = 10) -> nn.Module:
    """(B, 1, 28, 28) -> (B, K): 16 and 32 filters of 4x4 with stride 2, 100 units."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 100), nn.ReLU()),
        nn.Linear(100, num_classes),
    )
