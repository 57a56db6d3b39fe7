"""What a sweep searches: one option, and the values it may take."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from abatis.errors import UsageError

Value = str | float | int
FORMS = "NAME=log:LOW:HIGH, NAME=float:LOW:HIGH, NAME=int:LOW:HIGH or NAME=one-of:A,B,C"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)?")


@dataclass(frozen=True)
class Space:
    """The values that one option may take.

    Args:
        name: of the option, such as ``optim.lr``.
        kind: evenly on a logarithmic scale, evenly, whole numbers, or a choice.
        low: smallest value; 0 for a choice.
        high: largest value; 0 for a choice.
        choices: the values of a choice, as they are written on the command line.
        text: as the user wrote it.
    """

    name: str
    kind: Literal["log", "float", "int", "one-of"]
    low: float
    high: float
    choices: tuple[str, ...]
    text: str

    @property
    def extremes(self) -> tuple[Value, ...]:
        """The values to try before the first trial: both ends, or all choices."""
        if self.kind == "one-of":
            return self.choices
        ends = (self.low, self.high)
        return tuple(map(int, ends)) if self.kind == "int" else ends


def parse_spaces(texts: Sequence[str]) -> tuple[Space, ...]:
    """The options to search; raises UsageError."""
    if not texts:
        raise UsageError("nothing to search", fix=f"add --space {FORMS}")
    spaces = tuple(map(parse_space, texts))
    names = [space.name for space in spaces]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--space {twice} is given twice", fix="leave out one of them")
    return spaces


def parse_space(text: str) -> Space:
    """``optim.lr=log:0.01:0.3`` and its like; raises UsageError."""
    name, equals, values = text.partition("=")
    kind, colon, rest = values.partition(":")
    name = name.removeprefix("--").replace("_", "-")
    if not (equals and colon and NAME.fullmatch(name)):
        raise UsageError(f"--space {text}: not understood", fix=f"write {FORMS}")
    if kind == "one-of":
        choices = tuple(part for part in rest.split(",") if part)
        if len(set(choices)) != len(choices) or len(choices) < 2:
            raise UsageError(f"--space {text}: needs at least two different values", fix=FORMS)
        return Space(name, "one-of", 0, 0, choices, text)
    if kind not in ("log", "float", "int"):
        raise UsageError(f"--space {text}: unknown kind '{kind}'", fix=f"write {FORMS}")
    low, high = _read_ends(text, rest, kind)
    return Space(name, kind, low, high, (), text)  # type: ignore[arg-type]


def _read_ends(text: str, rest: str, kind: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in rest.split(":"))
    except ValueError:
        raise UsageError(f"--space {text}: needs two numbers", fix=f"write {FORMS}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"--space {text}: the first number must be below the second")
    if kind == "log" and low <= 0:
        raise UsageError(
            f"--space {text}: a logarithmic scale begins above 0", fix="use float, or a low above 0"
        )
    if kind == "int" and (low % 1 or high % 1):
        raise UsageError(f"--space {text}: the ends of int are whole numbers", fix="or use float")
    return low, high


def write_words(values: dict[str, Value]) -> list[str]:
    """The words of the command line for values by option."""
    return [f"--{name}={value}" for name, value in values.items()]
