"""A small network that learns the answers of another one, from questions alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis.api.randomness import generator, seeded

SIDE = 32  # larger images are averaged down to so many pixels a side
SMALLEST = 4  # pixels a side that convolutions need
WIDTHS = (32, 64, 64)
HIDDEN = 128
BATCH = 128
RATE = 2e-3


def shrink(x: Tensor) -> Tensor:
    """Average images down to at most SIDE pixels a side: (B, C, H, W) -> (B, C, h, w)."""
    height, width = x.shape[2:]
    if max(height, width) <= SIDE:
        return x
    return F.adaptive_avg_pool2d(x, (min(height, SIDE), min(width, SIDE)))


def build_surrogate(shape: torch.Size, outputs: int, seed: int) -> nn.Module:
    """Return an untrained network for shrunken images.

    Args:
        shape: (C, h, w) of an image.
        outputs: the number of answers that it tells apart.
        seed: of its weights.
    """
    channels, height, width = shape
    with seeded(seed, "extraction/surrogate"):
        if min(height, width) < SMALLEST:
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(channels * height * width, HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, outputs),
            )
        halvings = int(math.log2(min(height, width) / SMALLEST))
        layers: list[nn.Module] = []
        for number, wide in enumerate(WIDTHS):
            stride = 2 if 0 < number <= halvings or halvings >= len(WIDTHS) else 1
            layers += [nn.Conv2d(channels, wide, 3, stride, padding=1), nn.ReLU()]
            channels = wide
        places = math.ceil(height / 2**halvings) * math.ceil(width / 2**halvings)
        head = [nn.Linear(channels * places, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)]
        return nn.Sequential(*layers, nn.Flatten(), *head)


class Surrogate:
    """A network that is trained on questions and answers.

    Args:
        shape: (C, H, W) of an image, of any size.
        outputs: the number of answers that it tells apart.
        seed: of its weights and of the order of training.
        device: where it runs.
    """

    def __init__(self, shape: torch.Size, outputs: int, seed: int, device: torch.device) -> None:
        small = shrink(torch.zeros(1, *shape)).shape[1:]
        self.module = build_surrogate(small, outputs, seed).to(device)
        self.seed, self.device, self.fits = seed, device, 0

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs)."""
        logits: Tensor = self.module(shrink(x))
        return logits

    def fit(self, x: Tensor, answers: Tensor, epochs: int) -> None:
        """Train on shrunken images (m, C, h, w) and the answers to them, (m,) int64."""
        order = generator(self.seed, "extraction/order", self.fits)
        self.fits += 1
        total = epochs * math.ceil(len(x) / BATCH)
        self.module.requires_grad_(True)
        optimizer = torch.optim.Adam(self.module.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        with torch.enable_grad():
            for _ in range(epochs):
                for rows in torch.randperm(len(x), generator=order).split(BATCH):
                    logits = self.module(x[rows].to(self.device))
                    loss = F.cross_entropy(logits, answers[rows].to(self.device))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        self.module.requires_grad_(False)
