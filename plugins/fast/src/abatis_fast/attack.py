"""One gradient step from uniform noise.

    x_0 = clip(x + eta),  eta uniform in the ball of radius noise * eps
    x'  = clip(P(x_0 + alpha eps sign grad_x CE(x_0)))

FGSM-RS (Wong et al., ICLR 2020): noise 1, alpha 1.25, P projects onto the ball of radius eps.
N-FGSM (de Jorge et al., NeurIPS 2022): noise 2, alpha 1, no P; x' may lie (noise + alpha) eps away
from x. clip: to [0, 1]. In L2 the noise is uniform in the L2 ball and the step follows the
normalised gradient; both papers use Linf only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from abatis import Attacked, Ball, Batch, Forward, Run, maximise

if TYPE_CHECKING:
    from abatis_fast import FastConfig


class SingleStep:
    """The attacker ``fast``.

    Attributes:
        reach: how far its images may lie from the clean ones, as a multiple of eps.
    """

    def __init__(self, run: Run, config: FastConfig) -> None:
        unprojected = config.variant == "n-fgsm"
        self.run, self.alpha = run, config.alpha
        self.noise = config.noise if unprojected else 1.0
        self.reach = self.noise + self.alpha if unprojected else 1.0

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        def cross_entropy(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, batch.target, reduction="none")  # (B,)

        start = uniform_start(self.run, self._ball(batch.x, self.noise), "fast/start")
        step = self.alpha * self.run.threat.eps
        # n-fgsm: in a ball of radius noise + alpha the projection only clips to [0, 1]
        ball = self._ball(batch.x, self.reach)
        attacked = maximise(forward, ball, start, batch.y, cross_entropy, 1, step)
        # without steps_correct: after one step it does not measure how long a sample resists
        return Attacked(attacked.x)

    def _ball(self, x: Tensor, factor: float) -> Ball:
        return Ball(x, replace(self.run.threat, eps=factor * self.run.threat.eps))


def uniform_start(run: Run, ball: Ball, purpose: str) -> Tensor:
    """Return a uniform point of ball and box, (B, C, H, W), regardless of ``run.attack.start``."""
    normal = run.random.normal(f"{purpose}/direction", ball.x) if ball.norm != "Linf" else None
    return ball.uniform_start(run.random.uniform(purpose, ball.x), normal)
