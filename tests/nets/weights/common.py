"""A tiny network and its tensors, for files as others write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abatis.nets.weights import load_into, read_contents

IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Tiny(nn.Module):
    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def make_state(seed: int, num_classes: int = 5) -> dict[str, Tensor]:
    """Random weights, with statistics that differ from the initial ones."""
    torch.manual_seed(seed)
    net = Tiny(num_classes)
    net(torch.rand(8, 3, 4, 4))
    return {name: value.detach() for name, value in net.state_dict().items()}


def run(state: dict[str, Tensor], x: Tensor = IMAGES) -> Tensor:
    """The logits of the network with these weights."""
    net = Tiny(len(state["fc.bias"]))
    net.load_state_dict(state)
    return net.eval()(x).detach()


def put(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def load_tiny(path, key=None, statistics=None, num_classes=5):
    return load_into(Tiny(num_classes), read_contents(path, True), "Tiny", key, statistics)


def logits_of(loaded) -> Tensor:
    return loaded.module.eval()(IMAGES).detach()
