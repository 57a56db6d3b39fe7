"""No attack: standard training."""

from __future__ import annotations

from collections.abc import Mapping

from abatis.api.batch import Attacked, Batch
from abatis.api.context import Forward
from abatis.api.run import Run


class NoAttacker:
    """Returns the clean images."""

    def __init__(self, run: Run) -> None:
        self.options: Mapping[str, object] = {}

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        return Attacked(batch.x)
