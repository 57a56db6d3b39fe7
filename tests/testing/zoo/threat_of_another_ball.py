"""An image of the second threat that is said to belong to the first."""

from __future__ import annotations

from abatis import Attacked, Attacker, Ball, Batch, Forward, PluginConfig, Run, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "left the ball"


class Config(PluginConfig):
    several_threats = True


@hookimpl
def defense_config() -> type[PluginConfig]:
    return Config


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    def attack(forward: Forward, batch: Batch) -> Attacked:
        other = Ball(batch.x, run.threats[-1])
        return Attacked(other.climb(batch.x.clone(), 0.5 - batch.x, 2.0))

    return attack
