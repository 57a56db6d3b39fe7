"""The ladders of attacks of an evaluation."""

from __future__ import annotations

from typing import Literal, get_args

Ladder = Literal["clean", "quick", "rand", "standard", "thorough"]
"""The ladders of attacks of an evaluation, from the shortest to the longest; clean has none."""
AttackLadder = Literal["quick", "rand", "standard", "thorough"]
"""The ladders that can give a masking verdict."""
LADDERS: tuple[str, ...] = get_args(Ladder)

LADDERS_IN_WORDS = (
    "clean: no attack, only clean accuracy; quick: PGD-20 and margin-PGD-20, with the cheap"
    " diagnostics; standard: also AutoAttack, and all diagnostics; thorough: also PGD-100 with 5"
    " restarts and AutoAttack plus; rand: as standard with AutoAttack rand, for networks that"
    " answer at random"
)
"""What each of them runs."""
LADDERS_OF_A_RUN = f"evaluation after training. none; {LADDERS_IN_WORDS}"
