"""Batch norms of two kinds beside each other (Liu et al., CVPR 2023, arXiv 2303.11135).

In training the first half of a batch passes through norms with the statistics of the pretraining,
which stay as they are, the second half through ordinary ones. Scales and shifts of both are
trained, from the pretrained values. In eval mode all images pass through the ordinary ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from abatis import UsageError


class HalfFrozenNorm(nn.Module):
    """A batch norm, and a copy of it that keeps its running statistics."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.adaptive = norm
        self.frozen = copy.deepcopy(norm).eval()

    def train(self, mode: bool = True) -> HalfFrozenNorm:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            ordinary: Tensor = self.adaptive(x)
            return ordinary
        half = len(x) // 2
        return torch.cat([self.frozen(x[:half]), self.adaptive(x[half:])])


class TwoNorms(nn.Module):
    """A network with a :class:`HalfFrozenNorm` for every batch norm, which are replaced in place.

    Raises:
        UsageError: it has none.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        replaced = _replace(module, nn.BatchNorm2d, HalfFrozenNorm)
        if not replaced:
            raise UsageError(f"twins: {type(module).__name__} has no batch norm")
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(x)
        return logits

    def plain(self) -> nn.Module:
        """Return the network that is judged, with ordinary norms; for export."""
        module = copy.deepcopy(self.module)
        _replace(module, HalfFrozenNorm, lambda norm: norm.adaptive)
        return module


def _replace(module: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> int:
    """Replace the parts of a kind, in place; return how many there were."""
    found = [(name, part) for name, part in module.named_modules() if type(part) is kind]
    for name, part in found:
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, make(part))
    return len(found)
