"""Mean and standard deviation of the channels, in units of [0, 1]: published ones, and measured."""

from __future__ import annotations

import torch
from torch import Tensor

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, one number a channel each."""

DIGITS_MEAN, DIGITS_STD = (0.3058,), (0.3761,)
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
SVHN_MEAN, SVHN_STD = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure_statistics(images: Tensor) -> Statistics:
    """Mean and standard deviation of every channel of (N, C, H, W) images; exact for uint8.

    A constant channel gets the standard deviation 1, by which the network can divide.
    """
    if images.dtype != torch.uint8:
        std, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
        return tuple(mean.tolist()), tuple(value or 1.0 for value in std.tolist())
    counts = PixelCounts(images.shape[1])
    counts.add(images)
    return counts.measure()


class PixelCounts:
    """How often each value of a byte comes in each channel of images that are added in parts."""

    def __init__(self, channels: int) -> None:
        self._counts = torch.zeros(channels, 256, dtype=torch.int64)

    def add(self, images: Tensor) -> None:
        """Count images (N, C, H, W) uint8."""
        for counts, channel in zip(self._counts, images.unbind(1), strict=True):
            counts += torch.bincount(channel.flatten(), minlength=256)

    def measure(self) -> Statistics:
        """Exact mean and standard deviation of every channel; 1 for that of a constant one."""
        values = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for counts in self._counts:
            share = counts.double() / int(counts.sum())
            mean = (share * values).sum()
            means.append(float(mean))
            stds.append(float((share * (values - mean) ** 2).sum().sqrt()) or 1.0)
        return tuple(means), tuple(stds)
