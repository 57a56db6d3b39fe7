"""A radius that grows with the calls of the attacker, which are not the steps."""

from __future__ import annotations

import itertools

from abatis import Attacked, Attacker, Batch, Forward, Run, hookimpl

FAILS = "test_processes_and_micro_batches_make_the_update_of_one"
WORDS = "run.now"


@hookimpl
def defense_attacker(run: Run) -> Attacker:
    calls = itertools.count(1)

    def brighten(forward: Forward, batch: Batch) -> Attacked:
        radius = run.threat.eps * min(1.0, next(calls) / 4)
        return Attacked((batch.x + radius).clamp(0, 1))

    return brighten
