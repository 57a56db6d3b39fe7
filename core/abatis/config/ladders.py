"""The ladders of attacks of an evaluation."""

from __future__ import annotations

from typing import Literal, get_args

Ladder = Literal["clean", "quick", "rand", "standard", "thorough"]
"""The ladders of attacks of an evaluation, from the shortest to the longest; clean has none."""
AttackLadder = Literal["quick", "rand", "standard", "thorough"]
"""The ladders that can give a masking verdict."""
LADDERS: tuple[str, ...] = get_args(Ladder)
