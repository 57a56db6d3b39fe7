"""Mean and standard deviation of the channels among the tensors of a network or a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

NAMES = {"mean": "std", "mu": "sigma", "new_mean": "new_std"}
"""How the field names them: the mean, and the standard deviation that goes with it."""
CHANNELS = 4  # at most
LARGEST = 1.0  # a mean beyond belongs to images in [0, 255]


@dataclass(frozen=True)
class Pair:
    """One normalisation ``(x - mean) / std``.

    Attributes:
        keys: the names of both tensors.
        mean: one number a channel.
        std: one number a channel.
    """

    keys: tuple[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def changes_nothing(self) -> bool:
        """Are the normalised images the images?"""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    def equals(self, other: Pair) -> bool:
        """Is it the same normalisation?"""
        return (self.mean, self.std) == (other.mean, other.std)

    def __str__(self) -> str:
        return f"mean {_show(self.mean)}, std {_show(self.std)}"


def find_pairs(tensors: Mapping[str, Tensor], names: Iterable[str] | None = None) -> list[Pair]:
    """The normalisations among tensors.

    Args:
        tensors: by name.
        names: look only at these; at all if None.
    """
    allowed = set(tensors if names is None else names)
    found = []
    for key in sorted(allowed):
        stem, _, last = key.rpartition(".")
        other = f"{stem}.{NAMES.get(last, '')}" if stem else NAMES.get(last, "")
        if last not in NAMES or other not in allowed:
            continue
        mean, std = tensors[key], tensors[other]
        if mean.is_floating_point() and mean.numel() == std.numel() <= CHANNELS:
            numbers = [_round(tensor) for tensor in (mean, std)]
            if min(numbers[1]) > 0:
                found.append(Pair((key, other), *numbers))
    return found


def _round(tensor: Tensor) -> tuple[float, ...]:
    """The numbers as they were written: float32 has seven digits."""
    return tuple(float(f"{value:.7g}") for value in tensor.detach().flatten().tolist())


def _show(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
