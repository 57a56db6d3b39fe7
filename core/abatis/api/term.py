"""The summands of an objective, and their one reduction. Loads without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Term:
    """One summand of the objective; the engine alone forms ``weight * value.mean()``.

    value: (B,) unreduced, or () where it has no per-sample meaning; reweight: may a wrapper scale it sample by sample?
    """

    value: Tensor
    weight: float = 1.0
    reweight: bool = False


Terms = Mapping[str, Term]
"""Named summands; the names become the names of the metrics."""


def total(terms: Terms) -> Tensor:
    """``sum(weight * value.mean())`` over the terms: the only reduction in the program."""
    return sum((term.weight * term.value.mean() for term in terms.values()), start=0.0)  # type: ignore[return-value]
