"""A page as a reader sees it: its text, its tables and its headings."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

from abatis.report.run_report import write_report

EVIL = "<script>alert(1)</script><img src=x onerror=y>\"'&{{ 7*7 }}"
VOID = {"meta", "link", "br"}


def report(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


class Read(HTMLParser):
    """Tags with their attributes and the text under each, in order; checks that they are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", " ".join(data.split())))

    def under(self, tag: str) -> list[str]:
        return [text for parent, text in self.texts if parent == tag]


def seen(text: str) -> str:
    """What stands on the page, without tags, spaces made equal."""
    return " ".join(
        text for parent, text in Read(text).texts if parent not in ("style", "title", "desc")
    )


def row(text: str, name: str) -> list[str]:
    """The cells of the table row that a heading names."""
    (found,) = re.findall(
        rf'<tr[^>]*>\s*<th scope="row"[^>]*>{re.escape(name)}</th>(.*?)</tr>', text, re.S
    )
    return [
        " ".join(unescape(re.sub("<[^>]+>", " ", cell)).split())
        for cell in re.findall(r"<td[^>]*>(.*?)</td>", found, re.S)
    ]
