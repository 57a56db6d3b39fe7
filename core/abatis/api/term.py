"""The terms of the objective, and their one reduction. Loads without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Term:
    """One summand of the objective. The engine alone takes the mean and applies the weight.

    Attributes:
        value: one value per sample, (B,), not reduced; () if it has no per-sample meaning.
        weight: factor of the term's mean in the objective.
        reweight: may a loss wrapper scale the value of each sample?
    """

    value: Tensor
    weight: float = 1.0
    reweight: bool = False


Terms = Mapping[str, Term]
"""Terms by name. The names become the names of metrics."""


def total(terms: Terms) -> Tensor:
    """Return ``sum(weight * value.mean())`` over the terms: the only reduction in the program."""
    return sum((term.weight * term.value.mean() for term in terms.values()), start=0.0)  # type: ignore[return-value]
