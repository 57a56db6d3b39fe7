"""Conditions of the training step that stay on the device: the host reads them now and then, not in every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NEVER = 2**62


class DeferredChecks:
    """Remembers, for every condition, the first step that broke it."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}  # () int64 each

    def see(self, number: int, conditions: Mapping[str, Tensor]) -> Tensor:
        """Note what held in a step, () bool each. Returns 1 where any condition was ever broken, else 0: () float32."""
        for name, held in conditions.items():
            step = torch.where(held, NEVER, number)
            self.first[name] = torch.minimum(self.first[name], step) if name in self.first else step
        return (torch.stack(list(self.first.values())).amin() < NEVER).float()

    def read(self) -> tuple[int, list[str]] | None:
        """The first step that broke a condition, and which; None where all held. One synchronisation."""
        if not self.first:
            return None
        steps = dict(zip(self.first, torch.stack(list(self.first.values())).tolist(), strict=True))
        first = min(steps.values())
        return (
            None
            if first == NEVER
            else (first, [name for name, step in steps.items() if step == first])
        )
