"""Adversarial fine-tuning of an embedding f, which is what the last layer of the network gets.

    FARE (Schlarmann et al., ICML 2024, arXiv 2402.12336):  mean_i ||f(x'_i) - f0(x_i)||^2
    TeCoA (Mao et al., ICLR 2023, arXiv 2212.07016):        mean_i CE(100 cos(f(x'_i), T), y_i)

f0: the network before training, frozen; T: embeddings of the classes' names. The attack raises the
same values: v <- sign(momentum v + sign g), x' <- P(x' + step v), from a uniform start.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis import (
    Attacked,
    Ball,
    Batch,
    Forward,
    Network,
    Run,
    StepContext,
    Term,
    Terms,
    UsageError,
)
from abatis_fare import FareConfig


class ZeroShot(nn.Module):
    """Embeddings (B, D) to scale times their cosines with those of the classes, (B, K).

    Args:
        text: embeddings of the classes' names, (D, K), each of length 1.
        scale: factor of the cosines.
    """

    def __init__(self, text: Tensor, scale: float = 100.0) -> None:
        super().__init__()
        self.register_buffer("text", text)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.normalize(features, dim=1) @ self.get_buffer("text")


def freeze_original(run: Run) -> Network:
    """Return a frozen copy of the network as it is before training."""
    return run.auxiliary("original", copy.deepcopy(run.net.module), train=False)


class FareLoss:
    """The loss ``fare``: the squared distance to the embedding of the clean image."""

    def __init__(self, run: Run) -> None:
        self.original = run.shared(freeze_original)

    def __call__(self, ctx: StepContext) -> Terms:
        with torch.no_grad():
            target = self.original.features(ctx.batch.x)  # (B, D)
        return {"fare": Term((ctx.features_adv - target).square().sum(1), reweight=True)}


class MomentumAttacker:
    """Sign steps with momentum, on the value that the loss lowers."""

    def __init__(self, run: Run) -> None:
        if run.threat.norm != "Linf":
            raise UsageError(f"fare attacks in Linf, not in {run.threat.norm}")
        self.run = run
        self.config = run.config(FareConfig)
        self.original = run.shared(freeze_original) if self.config.form == "fare" else None

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        uniform = self.run.random.uniform("fare/start", batch.x)
        # not clipped to [0, 1]: the released code takes its first gradient there
        start = batch.x + (2 * uniform - 1) * self.run.threat.eps
        return self.climb(forward, batch, start)

    def climb(self, forward: Forward, batch: Batch, start: Tensor) -> Attacked:
        """Attack from given images, (B, C, H, W)."""
        ball, point = Ball(batch.x, self.run.threat), start.clone()
        moved = torch.zeros_like(point)
        target = None
        if self.original is not None:
            with torch.no_grad():
                target = self.original.features(batch.x)  # (B, D)
        for _ in range(self.run.attack.steps):
            point.requires_grad_(True)
            if target is not None:
                raised = (self.run.net.features(point) - target).square().sum()
            else:
                raised = F.cross_entropy(forward(point), batch.target, reduction="sum")
            (gradient,) = torch.autograd.grad(raised, point)
            moved = (self.config.momentum * moved + gradient.sign()).sign()
            point = ball.project(point.detach() + self.run.step_size * moved)
        return Attacked(ball.project(point.detach()))
