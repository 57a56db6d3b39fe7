"""The exam of the average-margin paper's released code: L2 PGD of 1,000 steps of 0.01 on the
cross-entropy, from a random start; the last image counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abatis import maximise
from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.api.randomness import generator
from abatis.api.threat import Threat
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge, Points
from abatis.evaluate.pgd import cross_entropy

STEPS, STEP = 1000, 0.01


def take_exam(model: nn.Module, points: Points, threat: Threat) -> float:
    """Return the share of the points that are classified correctly after the attack."""
    with isolate(model) as net:
        judge = Judge(net, points, threat, 500)
        random = generator(0, "exam", len(points))

        def attack(batch: Batch) -> tuple[Tensor, Tensor]:
            ball = Ball(batch.x, threat)
            uniform = torch.rand(batch.x.shape, generator=random)
            x = ball.uniform_start(uniform, torch.randn(batch.x.shape, generator=random))
            x = maximise(
                net, ball, x, batch.y, lambda logits: cross_entropy(logits, batch.y), STEPS, STEP
            ).x
            with torch.no_grad():
                return x, net(x).argmax(1) != batch.y

        clean = judge.classify_clean().correct
        return judge.run_attack("PGD-1000", attack, clean).robust.double().mean().item()
