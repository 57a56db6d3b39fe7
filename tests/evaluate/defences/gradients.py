"""Defences whose gradient exists and leads nowhere."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.evaluate.defences.nets import EPS, Behind, Forward, Toy, make_mlp, train_cnn


class Rippled(Behind):
    """A fast sine of small amplitude on the image."""

    noise = 0.02

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, lambda x: x + 0.02 * torch.sin(300 * x))

    def list_sources(self) -> list[Forward]:
        return [self.net]


def get_ripples(seed: int = 0) -> Toy:
    return Rippled(train_cnn(seed))


class Reverse(torch.autograd.Function):
    """The identity; its derivative is minus one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


class Reversed(Behind):
    """The gradient with respect to the image is reversed."""

    def list_sources(self) -> list[Forward]:
        return [self.net]


def get_reversed(seed: int = 0) -> Toy:
    return Reversed(train_cnn(seed), Reverse.apply)


class Scramble(torch.autograd.Function):
    """The identity; its derivative is noise of the gradient's size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.flatten(1).flip(1).view_as(gradient)


def get_scrambled(seed: int = 0) -> Toy:
    """The gradient of each pixel belongs to another one."""
    return Reversed(train_cnn(seed), Scramble.apply)


class Decoy(Toy):
    """Ten times the one-hot answer, and a small smooth function of other weights."""

    def __init__(self, net: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.net = net
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + seed)
            self.decoy = make_mlp(act=nn.Tanh).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return 10 * F.one_hot(self.net(x).argmax(1), 10) + 0.5 * self.decoy(x)

    def list_sources(self) -> list[Forward]:
        return [self.net]


def get_decoy(seed: int = 0) -> Toy:
    return Decoy(train_cnn(seed), seed)


def get_decoy_robust(seed: int = 0) -> Toy:
    """Over a network that was trained against half the radius, so that queries find little."""
    return Decoy(train_cnn(seed, EPS / 2), seed)


class Watchful(Toy):
    """Where gradients are recorded, a robust network answers."""

    def __init__(self, net: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.net, self.other = net, other

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x) if torch.is_grad_enabled() else self.net(x)

    def list_sources(self) -> list[Forward]:
        return [self.net]

    def answer(self, x: Tensor) -> Tensor:
        return self.net(x)


def get_grad_switch(seed: int = 0) -> Toy:
    return Watchful(train_cnn(seed), train_cnn(seed, EPS))


class WatchingInput(Watchful):
    """The same, where the image asks for a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x) if x.requires_grad else self.net(x)


def get_input_switch(seed: int = 0) -> Toy:
    return WatchingInput(train_cnn(seed), train_cnn(seed, EPS))


class Flat(torch.autograd.Function):
    """Rounds at 255 levels; its derivative is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (255 * x).round() / 255

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.zeros_like(gradient)


def get_loader_rounding(seed: int = 0) -> Toy:
    """Rounds as a loader of images does: zero gradients by mistake, over a plain network."""
    return Reversed(train_cnn(seed), Flat.apply)
