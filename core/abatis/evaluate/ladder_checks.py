"""What a ladder cannot do under a threat: refused before a training or the first forward pass."""

from __future__ import annotations

from collections.abc import Sequence

from abatis.api.threat import Threat
from abatis.errors import UsageError

L1_LADDERS = ("standard",)
"""In L1 only AutoAttack's standard version is defined: APGD with 5 restarts that begin in larger
balls, 5 targets, FAB-T and Square. The package runs ``plus`` and ``rand`` without that schedule,
and asks to check them.
"""


def check_ladder(ladder: str, threats: Sequence[Threat]) -> None:
    """Raise UsageError where a ladder has no attack, or an undefined one, for a threat's norm."""
    if ladder in ("clean", "none"):
        return
    l1 = next((threat for threat in threats if threat.norm == "L1"), None)
    if l1 is None or ladder in L1_LADDERS:
        return
    why = {
        "quick": "its only attack is PGD, which supports Linf and L2",
        "rand": "AutoAttack's version rand is defined for Linf and L2",
        "thorough": "AutoAttack's version plus and PGD are defined for Linf and L2",
    }[ladder]
    raise UsageError(
        f"the {ladder} ladder cannot judge {l1}: {why}",
        fix="use the standard ladder, whose AutoAttack supports L1 (APGD, FAB-T and Square)",
    )
