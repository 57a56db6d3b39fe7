"""A page of numbers, tables and plots in one file, that runs no script and loads nothing.

``page(title, lead, sections)`` fills ``page.jinja``. A section is a title and blocks: a string is a paragraph, and
:class:`Table`, :class:`Figure`, :class:`Code`, :class:`Items` and :class:`Folded` are what they say. All text is escaped
where it is put in; only ``Markup``, such as the plots of :mod:`abatis.report.svg`, goes in as it is. Equal arguments give
equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import nan
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from abatis.errors import DataError
from abatis.report.svg import LARGEST

SIGNS = {"pass": "✓", "warn": "!", "fail": "✕", "quiet": "·"}


@dataclass(frozen=True)
class Badge:
    """A verdict or a status: pass, warn and fail in their colours, with a sign; every other word in grey."""

    text: str

    @property
    def tone(self) -> str:
        return self.text.lower() if self.text.lower() in SIGNS else "quiet"

    @property
    def sign(self) -> str:
        return SIGNS[self.tone]


@dataclass(frozen=True)
class Told:
    """A cell of two parts: a name, and a sentence under it."""

    text: str
    detail: str


Cell = str | Badge | Told


@dataclass(frozen=True)
class Part:
    """A piece of a JSON record, of which nothing is taken for granted: it may be missing or of another type than expected."""

    value: Any = None

    @classmethod
    def read(cls, path: Path) -> Part:
        """A JSON file, which may be missing; raises DataError where it cannot be read."""
        try:
            return cls(json.loads(path.read_text(encoding="utf-8")) if path.exists() else None)
        except (OSError, ValueError) as error:
            what = f"cannot read {path.name}: {error}"
            raise DataError(what, where=str(path), fix="make it anew, or take it away") from error

    @classmethod
    def read_lines(cls, path: Path) -> list[Part]:
        """The lines of a JSON-lines file that can be read; the last one may have been cut off."""
        parts = []
        for line in (
            path.read_text(encoding="utf-8", errors="replace").splitlines()
            if path.is_file()
            else []
        ):
            with suppress(ValueError):
                parts.append(cls(json.loads(line)))
        return parts

    def __getitem__(self, key: str) -> Part:
        return Part(self.value.get(key)) if isinstance(self.value, dict) else Part()

    def items(self) -> list[tuple[str, Part]]:
        return (
            [(str(key), Part(value)) for key, value in self.value.items()]
            if isinstance(self.value, dict)
            else []
        )

    def parts(self) -> list[Part]:
        return [Part(value) for value in self.value] if isinstance(self.value, list) else []

    @property
    def number(self) -> float | None:
        """None where it is no finite number."""
        usable = (
            isinstance(self.value, int | float)
            and not isinstance(self.value, bool)
            and abs(self.value) < LARGEST
        )
        return float(self.value) if usable else None

    def numbers(self) -> list[float]:
        """Those of a list, NaN for what is none."""
        return [nan if part.number is None else part.number for part in self.parts()]

    def __str__(self) -> str:
        if isinstance(self.value, list):
            return ", ".join(map(str, self.parts()))
        if isinstance(self.value, dict):
            return ", ".join(f"{key} {part}" for key, part in self.items())
        return "-" if self.value is None else str(self.value)


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many as headings. ``numeric``: columns set to the right; ``header``: the column that names the row.

    A row with a grey badge is grey. The table scrolls inside its own box where the screen is narrow.
    """

    kind: ClassVar[str] = "table"
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    numeric: frozenset[int] = frozenset()
    header: int = 0

    def quiet(self, row: Sequence[Cell]) -> bool:
        """Is this row of less weight?"""
        return any(isinstance(cell, Badge) and cell.tone == "quiet" for cell in row)


@dataclass(frozen=True)
class Figure:
    """A plot of :mod:`abatis.report.svg`; two of them stand side by side where there is room."""

    kind: ClassVar[str] = "figure"
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Code:
    """Something to be typed, as it is."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    kind: ClassVar[str] = "items"
    texts: Sequence[str]


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: Sequence[Block]
    open: bool = False


Block = str | Table | Figure | Code | Items | Folded


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; without blocks it is left out."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Lead:
    """The first thing to be read: one number, and beside it the verdict on whether to believe it.

    facts: short lines under the number; verdict: a word for the badge, on ``topic``; says: sentences under it;
    numbers: lesser ones, (name, value) each.
    """

    label: str
    value: str
    facts: Sequence[str]
    verdict: str
    says: Sequence[str]
    numbers: Sequence[tuple[str, str]] = ()
    topic: str = "gradient masking"


def percent(share: float | None) -> str:
    """A fraction as people read it, in one piece."""
    return "-" if share is None else f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def plain(value: float | None) -> str:
    """A number to four digits."""
    return "-" if value is None else f"{value:.4g}"


def interval(part: Part, shown: Callable[[float], str], missing: str = "-") -> str:
    """A list of two ends."""
    ends = part.numbers()
    return f"{shown(ends[0])} to {shown(ends[1])}" if len(ends) == 2 else missing


def page(title: str, lead: Lead | None, sections: Sequence[Section]) -> str:
    """The whole page. Its policy allows no script, no address and no style but its own, which is named by its sha256."""
    style = _templates().get_template("style.jinja").render()
    return (
        _templates()
        .get_template("page.jinja")
        .render(
            title=title,
            lead=lead,
            badge=lead and Badge(lead.verdict),
            sections=[part for part in sections if part.blocks],
            style=Markup(style),
            digest=b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        )
    )


@cache
def _templates() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
