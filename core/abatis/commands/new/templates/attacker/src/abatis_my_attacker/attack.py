"""One step along the gradient of the cross-entropy, from a random start in the ball."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from abatis import Attacked, Ball, Batch, Forward, Run

if TYPE_CHECKING:
    from abatis_my_attacker import MyAttackerConfig


class MyAttacker:
    """The attacker ``my-attacker``."""

    def __init__(self, run: Run, config: MyAttackerConfig) -> None:
        self.run, self.config = run, config

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        ball, random = Ball(batch.x, self.run.threat), self.run.random
        uniform = random.uniform("my-attacker/start", batch.x)
        normal = random.normal("my-attacker/direction", batch.x)
        x = ball.uniform_start(uniform, normal).requires_grad_(True)  # (B, C, H, W)
        loss = F.cross_entropy(forward(x), batch.target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)  # (B, C, H, W)
        return Attacked(ball.climb(x.detach(), gradient, self.config.step * self.run.threat.eps))
