"""Conditions of a step that stay on the device, so that the host need not wait in every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NEVER = 2**62


class DeferredChecks:
    """Remembers, for every condition, the first step that broke it."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}  # () int64 each

    def note(self, number: int, conditions: Mapping[str, Tensor]) -> Tensor:
        """Remember which conditions held in a step.

        Args:
            number: The step's.
            conditions: () bool each, by name.

        Returns:
            1 if any condition was ever broken, else 0: () float32.
        """
        for name, held in conditions.items():
            step = torch.where(held, NEVER, number)
            self.first[name] = torch.minimum(self.first[name], step) if name in self.first else step
        return (torch.stack(list(self.first.values())).amin() < NEVER).float()

    def read(self) -> tuple[int, list[str]] | None:
        """The first step that broke a condition, and which; None if all held. Synchronises."""
        if not self.first:
            return None
        steps = torch.stack(list(self.first.values())).tolist()
        first = min(steps)
        if first == NEVER:
            return None
        return first, [name for name, step in zip(self.first, steps, strict=True) if step == first]
