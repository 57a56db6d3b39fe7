"""A page of numbers, tables and plots in one HTML file, which runs no script and loads nothing.

``page(title, lead, sections)`` fills ``page.jinja``. A section has a title and blocks: a string is
a paragraph; the other blocks are :class:`Table`, :class:`Figure`, :class:`Code`, :class:`Items`,
:class:`Folded` and :class:`Gallery`. All text is escaped where it is inserted; only ``Markup``,
such as the plots of :mod:`abatis.report.svg`, is inserted as it is. Equal arguments give equal
bytes.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from markupsafe import Markup

from abatis.report.words import NO_BREAK_SPACE, format_percent
from abatis.system.printable import replace_controls

if TYPE_CHECKING:
    from jinja2 import Environment

SIGNS = {"pass": "✓", "warn": "!", "fail": "✕", "quiet": "·"}


@dataclass(frozen=True)
class Badge:
    """A verdict or status: pass, warn and fail have a colour and a sign, other words are grey.

    Args:
        text: what it says.
        of: pass, warn or fail, where the text is another.
    """

    text: str
    of: str = ""

    @property
    def tone(self) -> str:
        word = (self.of or self.text).lower()
        return word if word in SIGNS else "quiet"

    @property
    def sign(self) -> str:
        return SIGNS[self.tone]


@dataclass(frozen=True)
class NameAndDetail:
    """A cell of two parts: a name and a sentence below it."""

    text: str
    detail: str


Cell = str | Badge | NameAndDetail


@dataclass(frozen=True)
class Table:
    """A table; a row with a grey badge is grey. It scrolls in its own box on a narrow screen.

    Args:
        headings: one for each column.
        rows: as many cells as headings in each.
        caption: a sentence above the table.
        numeric: the columns that are aligned right.
        header: the column that names the row.
    """

    kind: ClassVar[str] = "table"
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    numeric: frozenset[int] = frozenset()
    header: int = 0

    def quiet(self, row: Sequence[Cell]) -> bool:
        """Is this row grey?"""
        return any(isinstance(cell, Badge) and cell.tone == "quiet" for cell in row)


@dataclass(frozen=True)
class Figure:
    """A plot of :mod:`abatis.report.svg`; two are shown side by side where there is room."""

    kind: ClassVar[str] = "figure"
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Code:
    """Something to type, exactly as it is."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    kind: ClassVar[str] = "items"
    texts: Sequence[str]


@dataclass(frozen=True)
class Folded:
    """Blocks that a click on their summary opens."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: Sequence[Block]
    open: bool = False


@dataclass(frozen=True)
class Picture:
    """A small image.

    Args:
        png: in base64.
        alt: what it shows.
        lines: texts below it.
    """

    png: str
    alt: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Card:
    """Images that belong together.

    Args:
        title: what they are of.
        badge: what became of it.
        images: side by side.
    """

    title: str
    badge: Badge | None
    images: Sequence[Picture]


@dataclass(frozen=True)
class Gallery:
    """Cards, as many side by side as there is room for.

    Args:
        caption: a sentence above them.
        cards: the cards.
    """

    kind: ClassVar[str] = "gallery"
    caption: str
    cards: Sequence[Card]

    @property
    def layout(self) -> str:
        """How wide a card is, as the style knows it: by the most images that one has."""
        most = max(len(card.images) for card in self.cards)
        return {0: "pairs", 1: "pairs", 2: "pairs", 3: "threes", 4: "fours"}.get(most, "wide")


Block = str | Table | Figure | Code | Items | Folded | Gallery


@dataclass(frozen=True)
class Section:
    """A heading and its blocks; without blocks it is left out."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Lead:
    """The head of the page: one number, and beside it the verdict on whether to trust it.

    Args:
        label: what the number is.
        value: the number.
        facts: short lines below the number.
        verdict: a word for the badge.
        says: sentences below the verdict.
        numbers: further numbers, (name, value) each.
        topic: what the verdict is about.
    """

    label: str
    value: str
    facts: Sequence[str]
    verdict: str
    says: Sequence[str]
    numbers: Sequence[tuple[str, str]] = ()
    topic: str = "gradient masking"


def percent(share: float | None) -> str:
    """A fraction as a percentage that no line break divides."""
    return format_percent(share, NO_BREAK_SPACE)


def page(title: str, lead: Lead | None, sections: Sequence[Section]) -> str:
    """Return the whole page.

    Its content security policy allows no script, no address and no style but its own, which it
    names by the sha256.
    """
    style = _templates().get_template("style.jinja").render()
    return replace_controls(
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
    import jinja2  # when a page is written, and not with every command

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
