"""A small split of real digits, and networks that are trained in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from abatis.api.batch import Batch


@dataclass(frozen=True)
class PointsInMemory:
    """A split held in memory, whose points have positions of their own."""

    x: Tensor
    y: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, positions: Tensor) -> PointsInMemory:
        return PointsInMemory(self.x[positions], self.y[positions], self.index[positions])

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        for first in range(0, len(self), batch_size):
            rows = slice(first, first + batch_size)
            yield Batch(self.x[rows], self.y[rows], self.index[rows])


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are far slower on several threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def points() -> Callable[..., PointsInMemory]:
    """Makes a split of images (n, C, H, W) and labels (n,)."""

    def make(x: Tensor, y: Tensor, index: Tensor | None = None) -> PointsInMemory:
        return PointsInMemory(x, y, torch.arange(len(y)) if index is None else index)

    return make


@pytest.fixture(scope="session")
def digits() -> PointsInMemory:
    """All 1797 digits: (n, 1, 8, 8) in [0, 1]."""
    x, y = load_digits(return_X_y=True)
    return PointsInMemory(
        torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8),
        torch.tensor(y),
        torch.arange(len(y)),
    )


@pytest.fixture(scope="session")
def network(digits: PointsInMemory) -> nn.Module:
    """One hidden layer, batch norm and dropout, trained on 1400 digits; left in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 48),
            nn.BatchNorm1d(48),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(48, 10),
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(15):
            for rows in torch.randperm(1400).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(digits.x[rows]), digits.y[rows]).backward()
                optimizer.step()
    return net
