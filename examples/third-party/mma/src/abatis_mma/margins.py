"""Every image is attacked with its own margin as radius (Ding, Sharma, Lui & Huang, ICLR 2020).

    s(x) = logsumexp_{k != y} z_k(x) - z_y(x),  correct where s(x) < 0
    x'_i = PGD on s with radius e_i,  u_i = (x'_i - x_i) / e_i,
    e_i: the t in [0, 1.05 d_max] where s(x_i + t u_i) crosses 0
    total = c mean_i CE(x_i)
            + (1 - c) mean_i (CE(x_i + e_i u_i) where correct and e_i < d_max, CE(x_i) where wrong)

The gradient of the margin has the direction of the gradient of the loss at the shortest successful
perturbation, through which no gradient flows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abatis import (
    Attacked,
    Ball,
    Batch,
    Run,
    StepContext,
    Term,
    Terms,
    TrainerHooks,
    UsageError,
    maximise,
    random_start,
)
from abatis_mma import MmaConfig

BEYOND = 1.05  # the interval of the bisection, as a multiple of d_max
STEP = 2.5  # total length of all PGD steps, as a multiple of the radius
TINY = 1e-12


class Margins(TrainerHooks):
    """The latest margin of every training image, (train_size,), by index.

    It is 0 for misclassified images and before the first attack.
    """

    def __init__(self, run: Run) -> None:
        self.eps = torch.zeros(run.train_size, device=run.device)

    def after_update(self, ctx: StepContext) -> None:
        index, eps = ctx.gather(ctx.batch.index), ctx.gather(ctx.info["eps"])
        self.eps[index.to(self.eps.device)] = eps.to(self.eps.dtype)

    def state_dict(self) -> dict[str, Any]:
        return {"eps": self.eps.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.eps.copy_(state["eps"])


class MarginAttacker:
    """The attacker ``mma``.

    It reports ``eps`` (B,), the new margins, and ``counts`` (B,), 0 for images whose margin is
    already large enough.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.margins = run, run.config(MmaConfig), run.shared(Margins)
        self.reach = max(1.0, BEYOND * self.config.max_eps / max(run.threat.eps, TINY))

    def __call__(self, forward: Callable[[Tensor], Tensor], batch: Batch) -> Attacked:
        with torch.no_grad():
            correct = soft_margin(forward(batch.x), batch.y) < 0  # (B,)
        eps = self.margins.eps[batch.index].to(batch.x.dtype).clamp(min=self.config.min_eps)  # (B,)
        ball = Ball(batch.x, self.run.threat, eps)

        def objective(logits: Tensor) -> Tensor:
            return soft_margin(logits, batch.y)

        steps = self.run.attack.steps
        start, length = random_start(self.run, ball), STEP * eps / max(steps, 1)
        found = maximise(forward, ball, start, batch.y, objective, steps, length)
        direction = (found.x - batch.x) / _wide(eps + TINY)
        eps = self.boundary(forward, batch, direction, eps)
        x = (batch.x + _wide(eps) * direction).clamp(0, 1)
        counts = ~correct | (eps < self.config.max_eps)
        info = {"eps": torch.where(correct, eps, 0), "counts": counts.to(eps.dtype)}
        return Attacked(torch.where(_wide(correct), x, batch.x), info)

    @torch.no_grad()
    def boundary(
        self, forward: Callable[[Tensor], Tensor], batch: Batch, direction: Tensor, start: Tensor
    ) -> Tensor:
        """Return where s crosses 0 along a direction, (B,).

        Args:
            forward: the network in eval mode.
            batch: images and labels.
            direction: (B, C, H, W).
            start: where the bisection starts, (B,).
        """
        low, t = torch.zeros_like(start), start
        high = torch.full_like(start, BEYOND * self.config.max_eps)
        for _ in range(self.config.bisections):
            x = (batch.x + _wide(t) * direction).clamp(0, 1)
            inside = soft_margin(forward(x), batch.y) < 0  # (B,)
            low, high = torch.where(inside, t, low), torch.where(inside, high, t)
            t = (low + high) / 2
        return t


class MarginLoss:
    """The loss ``mma``: the terms ``clean`` and ``margin``."""

    def __init__(self, run: Run) -> None:
        self.config = run.config(MmaConfig)

    def __call__(self, ctx: StepContext) -> Terms:
        if "counts" not in ctx.info:
            raise UsageError(
                "the loss of 'mma' needs the images of its own attack",
                fix="use --use attacker=mma",
            )
        clean = F.cross_entropy(ctx.logits_clean, ctx.batch.y, reduction="none")  # (B,)
        margin = F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none")  # (B,)
        margin = margin * ctx.info["counts"]
        share = self.config.clean_weight
        return {
            "clean": Term(clean, weight=share),
            "margin": Term(margin, weight=1 - share, reweight=True),
        }


def soft_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return logsumexp of the other logits minus that of the label: (B, K), (B,) -> (B,).

    It is below 0 if p_y > 1/2.
    """
    true = logits.gather(1, y[:, None])  # (B, 1)
    return logits.scatter(1, y[:, None], -torch.inf).logsumexp(1) - true.squeeze(1)


def _wide(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]
