"""One line of a run's plan: who provides what, in which version and with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUILT_IN = "built-in"  # in the place of a version


@dataclass(frozen=True)
class PlanRow:
    """One line of the printed plan."""

    role: str
    provider: str
    version: str
    options: Mapping[str, Any]
