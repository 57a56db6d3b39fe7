"""An attack that goes twice as far as it may."""

from __future__ import annotations

from abatis import Attacked, Attacker, Batch, Run, hookimpl

FAILS = "test_terms_are_legal_for_any_network_classes_and_batch"
WORDS = "left the ball"


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    return lambda forward, batch: further(run, batch)


def further(run: Run, batch: Batch) -> Attacked:
    return Attacked((batch.x + 2 * run.threat.eps).clamp(0, 1))
