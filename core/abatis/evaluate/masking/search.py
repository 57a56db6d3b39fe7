"""What a search without the network's own gradients found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from abatis.evaluate.judge import Verdicts


@dataclass(frozen=True)
class Search:
    """The attacks of a search.

    Args:
        verdicts: by name, in order.
        settings: in plain types, by the same names.
    """

    verdicts: Mapping[str, Verdicts]
    settings: Mapping[str, Mapping[str, object]]

    @property
    def robust(self) -> Tensor:
        """Which points withstood all of them, (n,) bool."""
        return torch.stack([verdict.robust for verdict in self.verdicts.values()]).all(0)
