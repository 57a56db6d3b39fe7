"""Defences that answer at random: two forwards on the same images differ."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.evaluate.defences.nets import (
    Behind,
    Forward,
    Toy,
    make_cnn,
    obtain,
    read_images,
    train_cnn,
)


class Pruned(Toy):
    """Dhillon et al. (2018): activations stay at random, in proportion to their size."""

    random = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:  # type: ignore[attr-defined]
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                flat = x.flatten(1)
                share = flat / flat.sum(1, keepdim=True).clamp(min=1e-9)
                stays = 1 - (1 - share).pow(0.5 * flat.shape[1])
                kept = torch.rand_like(flat) < stays
                x = (flat * kept / stays.clamp(min=1e-3)).view_as(x)
        return x


def get_pruned(seed: int = 0) -> Toy:
    return Pruned(train_cnn(seed))


def resize(x: Tensor) -> Tensor:
    """Resize to 8 to 11 pixels a side, and pad to 12 at a random place."""
    side = int(torch.randint(8, 12, ()))
    left, top = (int(torch.randint(0, 13 - side, ())) for _ in range(2))
    small = F.interpolate(x, (side, side), mode="bilinear")
    return F.pad(small, (left, 12 - side - left, top, 12 - side - top))


class Resized(Behind):
    """Xie et al. (2018): random size and place."""

    random = True

    def list_sources(self) -> list[Forward]:
        return [self]


def get_resized(seed: int = 0) -> Toy:
    def make() -> nn.Module:
        net = make_cnn()
        net.insert(4, nn.AdaptiveAvgPool2d(4))
        return net

    return Resized(obtain("resized", seed, make, augment=resize), resize)


class Mixed(Toy):
    """Pang et al. (2020): the image is mixed with stored ones, and ten answers are averaged."""

    random = True
    draws = 4  # each is a mean of ten already

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("stored", read_images()[0][:200])

    def forward(self, x: Tensor) -> Tensor:
        answers = []
        for _ in range(10):
            others = self.stored[torch.randint(0, 200, (len(x),))]
            answers.append(self.net(0.5 * x + 0.5 * others).softmax(1))
        return torch.stack(answers).mean(0).clamp(min=1e-9).log()


def get_mixup(seed: int = 0) -> Toy:
    """The network is trained on images of half the contrast, mixed with others."""

    def mix(x: Tensor) -> Tensor:
        return 0.5 * x + 0.5 * x[torch.randperm(len(x))]

    return Mixed(obtain("mixup", seed, make_cnn, augment=mix))


@torch.no_grad()
def complete(x: Tensor) -> Tensor:
    """Drop 30 % of the pixels, and complete the image at rank 3."""
    kept = (torch.rand_like(x) < 0.7).float()
    left, sizes, right = torch.linalg.svd(x * kept / 0.7, full_matrices=False)
    return (left[..., :3] * sizes[..., None, :3]) @ right[..., :3, :]


class Completed(Behind):
    """Yang et al. (2019), ME-Net."""

    random = True


def get_menet(seed: int = 0) -> Toy:
    return Completed(obtain("menet", seed, make_cnn, augment=complete), complete)


class Noisy(Behind):
    """Noise on the image."""

    random = True

    def list_sources(self) -> list[Forward]:
        return [self]


def add_noise(x: Tensor) -> Tensor:
    """Of standard deviation 0.15."""
    return x + 0.15 * torch.randn_like(x)


def get_noise(seed: int = 0) -> Toy:
    return Noisy(obtain("noise", seed, make_cnn, augment=add_noise), add_noise)


class RandomChoice(Toy):
    """One of three networks answers, drawn anew for every call."""

    random = True

    def __init__(self, nets: list[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return self.nets[int(torch.randint(0, len(self.nets), ()))](x)

    def list_sources(self) -> list[Forward]:
        return [self, lambda x: torch.stack([net(x) for net in self.nets]).mean(0)]


def get_random_choice(seed: int = 0) -> Toy:
    return RandomChoice([train_cnn(3 * seed + k) for k in range(3)])
