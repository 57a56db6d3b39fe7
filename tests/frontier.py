"""The tiny network and the arrays of the reference values in ``golden/frontier``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.golden import golden

LIMIT = 1e-10
"""Of losses and gradients, relative to 1 + the largest value."""


def frontier(name: str) -> Mapping[str, np.ndarray]:
    """Return the arrays of one file; skips the test if they are absent."""
    return golden(f"frontier/{name}")


class Tiny(nn.Module):
    """conv 3-5 with bias, BN, softplus, conv 5-6 stride 2, BN, softplus, mean, linear: float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 10)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.bn1(self.conv1(x)))
        return self.fc(F.softplus(self.bn2(self.conv2(x))).mean((2, 3)))


def load(module: nn.Module, arrays: Mapping[str, np.ndarray], prefix: str) -> nn.Module:
    """Load the state that a file holds under a prefix, in training mode."""
    state = {name: torch.tensor(arrays[prefix + name]) for name in module.state_dict()}
    module.load_state_dict(state)
    return module.train()


def tensor_of(arrays: Mapping[str, np.ndarray], key: str) -> Tensor:
    """Return one array as a tensor."""
    return torch.tensor(arrays[key])


def is_close(found: Any, expected: Any, limit: float = LIMIT) -> bool:
    """Does a value equal a reference value within the limit of the reference files?"""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    largest = 1 + float(expected.abs().max())
    return (
        found.shape == expected.shape and float((found - expected).abs().max()) <= limit * largest
    )
