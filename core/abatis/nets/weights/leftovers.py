"""Tensors of a file that the network does not take: which may be dropped, and which may not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from abatis.nets.weights.matching import COMPUTED, NEVER_RUN

DROPPED = {
    "of a loss": r"(\w*criterion|criterions|\w*loss|loss_\w+)",
    "auxiliary heads": r"(aux\w*|AuxLogits)",
    "an attacker": r"(attack|attacker|adversary)",
    "another network": r"(teacher\w*|\w+_teacher|ema|ema_\w+|\w+_ema|discriminator)",
    "metrics": r"(\w*metrics?|(train|val|valid|test)_acc\w*|\w*confmat)",
    "layers that are never run": NEVER_RUN,
    "counters": r"(n_averaged|n_classes|total_ops|total_params)",
    "computed by the network": "|".join(COMPUTED),
}
"""Modules and tensors that do not change the logits, by what they are: regular expressions for one
part of a dotted name."""

PATTERNS = {what: re.compile(pattern) for what, pattern in DROPPED.items()}


def sort_leftovers(
    tensors: Mapping[str, Tensor], keys: Iterable[str]
) -> tuple[dict[str, str], list[str]]:
    """Tell tensors that may be dropped from those that may not.

    Args:
        tensors: of the file.
        keys: names of those that a network did not take. A single whole number is a counter.

    Returns:
        What each tensor to be dropped is, by name; and the names of the rest.
    """
    dropped: dict[str, str] = {}
    unknown = []
    for key in keys:
        parts = key.split(".")
        kinds = (
            what
            for what, pattern in PATTERNS.items()
            if any(pattern.fullmatch(part) for part in parts)
        )
        value = tensors[key]
        counts = value.dim() == 0 and not value.is_floating_point()
        if what := next(kinds, "counters" if counts else ""):
            dropped[key] = what
        else:
            unknown.append(key)
    return dropped, unknown


def describe_dropped(dropped: dict[str, str]) -> str:
    """``3 tensors of a loss, such as criterion.weight``, and so on; empty for none."""
    groups: dict[str, list[str]] = {}
    for key, what in dropped.items():
        groups.setdefault(what, []).append(key)
    return "; ".join(
        f"{what}: {len(keys)} tensors, such as {keys[0]}" if len(keys) > 1 else f"{what}: {keys[0]}"
        for what, keys in groups.items()
    )


def show_names(names: Iterable[str], most: int = 3) -> str:
    """The first of some names."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
