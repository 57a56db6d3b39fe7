"""Reading JSON records of which nothing is taken for granted: old, unfinished or damaged ones."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from abatis.report.sealed_json import parse_json, read_json
from abatis.report.words import LARGEST


@dataclass(frozen=True)
class Part:
    """A part of a JSON record, which may be missing or of another type than expected."""

    value: Any = None

    @classmethod
    def read(cls, path: Path) -> Part:
        """Read a JSON file; an empty part where there is none.

        Raises:
            DataError: the file cannot be read.
        """
        return cls(read_json(path) if path.exists() else None)

    @classmethod
    def read_lines(cls, path: Path) -> list[Part]:
        """The readable lines of a JSON-lines file; the last line may be incomplete."""
        if not path.is_file():
            return []
        parts = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                parts.append(cls(parse_json(line)))
        return parts

    def __getitem__(self, key: str) -> Part:
        return Part(self.value.get(key)) if isinstance(self.value, dict) else Part()

    def items(self) -> list[tuple[str, Part]]:
        """Keys and parts of a table; nothing where this is not a table."""
        if not isinstance(self.value, dict):
            return []
        return [(str(key), Part(value)) for key, value in self.value.items()]

    def parts(self) -> list[Part]:
        """The parts of a list; nothing where this is not a list."""
        return [Part(value) for value in self.value] if isinstance(self.value, list) else []

    @property
    def number(self) -> float | None:
        """The number; None where this is not a finite number."""
        usable = (
            isinstance(self.value, int | float)
            and not isinstance(self.value, bool)
            and abs(self.value) < LARGEST
        )
        return float(self.value) if usable else None

    def numbers(self) -> list[float]:
        """The numbers of a list, with NaN for whatever is not one."""
        return [nan if part.number is None else part.number for part in self.parts()]

    def __str__(self) -> str:
        if isinstance(self.value, list):
            return ", ".join(map(str, self.parts()))
        if isinstance(self.value, dict):
            return ", ".join(f"{key} {part}" for key, part in self.items())
        return "-" if self.value is None else str(self.value)
