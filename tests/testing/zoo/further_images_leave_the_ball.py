"""Further images beyond the radius, beside an attack that stays inside."""

from __future__ import annotations

from abatis import Attacked, Attacker, Ball, Batch, Forward, Run, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "images 'large': left the ball"


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    def attack(forward: Forward, batch: Batch) -> Attacked:
        ball = Ball(batch.x, run.threat)
        x = ball.climb(batch.x.clone(), 0.5 - batch.x, run.threat.eps)
        large = (batch.x + 2 * (x - batch.x)).clamp(0, 1)
        return Attacked(x, images={"large": large})

    return attack
