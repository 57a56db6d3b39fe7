"""Networks that mislead attacks, tiny ones that are known by hand, and how they are diagnosed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from abatis.api.threat import Threat
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge, Points
from abatis.evaluate.masking import attacks, radii
from abatis.evaluate.masking.diagnosis import Diagnosis, diagnose
from abatis.evaluate.masking.record import Outcome
from abatis.evaluate.masking.training import TrainingFacts


class Before(nn.Module):
    """An honest network behind a change of its images."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.change(x))


class Times(nn.Module):
    """Logits times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


class Linear(nn.Module):
    """Two classes, logits (0, w.x + b); w: (C, H, W)."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: Tensor) -> Tensor:
        z = (x * self.weight).sum((1, 2, 3)) + self.bias
        return torch.stack([torch.zeros_like(z), z], 1)


class Window(nn.Module):
    """One pixel t, class 0, sure everywhere but in [0.6, 0.8); the slope of the loss points up."""

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(1)[:, 0]
        inside = (t >= 0.6) & (t < 0.8)
        z = t + 2 * inside - 2
        return torch.stack([torch.zeros_like(z), z], 1)


class Shifted(nn.Module):
    """One pixel t, logits (0, 5 (t - m) + 1): m is 0.7 in eval mode, the batch mean in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, eps=1.0, affine=False)
        self.norm.running_mean.fill_(0.7)
        self.norm.running_var.zero_()

    def forward(self, x: Tensor) -> Tensor:
        z = 5 * self.norm(x).flatten(1)[:, 0] + 1
        return torch.stack([torch.zeros_like(z), z], 1)


class Dynamic(nn.Module):
    """Takes a gradient inside its forward, or counts its forwards in a buffer."""

    def __init__(self, net: nn.Module, gradient: bool) -> None:
        super().__init__()
        self.net, self.gradient = net, gradient
        self.register_buffer("forwards", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.gradient:
            with torch.enable_grad():
                inner = x.detach().requires_grad_()
                inner.square().sum().backward()
        else:
            self.forwards += 1
        return self.net(x)


PLANTED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "logits x1000": lambda net: nn.Sequential(net, Times(1000)),
    "quantised input": lambda net: Before(net, lambda x: (x * 8).round() / 8),
    "random noise": lambda net: Before(net, lambda x: x + 0.1 * torch.randn_like(x)),
    "ripple": lambda net: Before(net, lambda x: x + 0.02 * torch.sin(300 * x)),
    "detached": lambda net: Before(net, torch.Tensor.detach),
    "softmax": lambda net: nn.Sequential(net, nn.Softmax(1)),
}
SPEAK: dict[str, set[str]] = {
    "logits x1000": {"D15", "D18", "D21"},
    "quantised input": {"D2", "D3", "D10", "D12", "D15", "D20"},
    "random noise": {"D6", "D17"},
    "ripple": {"D5", "D9", "D10"},
    "detached": {"D1", "D10"},
    "softmax": {"D7"},
}
"""Which tests must speak of each, whatever others say too."""


def dim(points: Callable[..., Points], n: int = 20) -> tuple[Linear, Any]:
    """Points of class 1 whose first pixel is 0.01, 0.02, ... above 0.5.

    The logits are (0, w.x - 0.5 sum(w)), and |w| sums to 5.
    """
    x = torch.full((n, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] += 0.01 * torch.arange(1, n + 1)
    net = Linear(torch.tensor([1.0, -2.0, 2.0, 0.0]).view(1, 2, 2), -0.5)
    return net, points(x, torch.ones(n, dtype=torch.int64), torch.arange(30, 30 + n))


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the attacks, which take most of the time; the slow tests run them in full."""
    for name, value in {"QUERIES": 100, "MORE_STEPS": 40, "RESTARTS": 2}.items():
        monkeypatch.setattr(attacks, name, value)
    monkeypatch.setattr(radii, "GRID", (0, 1, 4))


def diagnosed(
    net: nn.Module,
    split: Points,
    threat: str = "Linf:0.1",
    *,
    batch_size: int = 256,
    training: TrainingFacts | None = None,
) -> Diagnosis:
    """The diagnosis of a network on all points of a split."""
    with isolate(net) as judged:
        judge = Judge(judged, split, Threat.parse(threat), batch_size)
        return diagnose(judge, judge.classify_clean(), seed=0, training=training)


def by_id(diagnosis: Diagnosis) -> dict[str, Outcome]:
    """The tests, by id."""
    return {test.id: test for test in diagnosis.tests}


def spoke(diagnosis: Diagnosis) -> set[str]:
    """Who warned or failed."""
    return {test.id for test in diagnosis.tests if test.status in ("warn", "fail")}
