"""An attack that is not ours: how it is made for a network and a threat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from abatis.api.threat import Threat

MakeImages = Callable[[Tensor, Tensor], Tensor]
"""From images (B, C, H, W) and labels (B,) to adversarial images (B, C, H, W)."""


@dataclass(frozen=True)
class AlsoAttack:
    """An attack of another library, or a user's function.

    Args:
        name: as it was asked for.
        version: of the library, or the sha256 of the file.
        make: makes the attack for a network, which it may change, and a threat.
    """

    name: str
    version: str
    make: Callable[[nn.Module, Threat], MakeImages]

    @property
    def title(self) -> str:
        """Its name in a record."""
        return f"also {self.name}"
