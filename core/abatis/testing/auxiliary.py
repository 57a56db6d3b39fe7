"""For tests: the auxiliary networks of a plan outside any run."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis.api.randomness import seeded
from abatis.api.run import Run
from abatis.nets.auxiliaries import add_auxiliary
from abatis.nets.backbones.from_file import load_factory
from abatis.nets.backbones.names import is_factory
from abatis.nets.net import Net

POOLED = 4  # pixels a side


class SmallNetwork(nn.Module):
    """Smooth, without batch norm: images (B, C, H, W) of any size to logits (B, K)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(POOLED**2, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x.mean(1, keepdim=True), POOLED).flatten(1)
        logits: Tensor = self.head(F.softplus(self.hidden(pooled)))
        return logits


def place_auxiliaries(run: Run, net: Net) -> None:
    """Let the hooks of a plan use auxiliary networks.

    Args:
        run: what the hooks are given.
        net: the network of the plan; the auxiliary ones get its type and device.
    """
    run.place_adder(partial(add_auxiliary, net, partial(_build, net, run.num_classes)))


def _build(net: Net, num_classes: int, given: nn.Module | str) -> Net:
    """A module or the network of ``FILE.py:FUNCTION``; in place of another name, a small one."""
    if isinstance(given, str) and is_factory(given):
        given = load_factory(given, num_classes)
    elif isinstance(given, str):
        with seeded(0, f"auxiliary network {given}"):
            given = SmallNetwork(num_classes)
    like = next(net.module.parameters(), torch.empty(0))
    return Net(given.to(like))
