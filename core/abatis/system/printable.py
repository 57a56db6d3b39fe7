"""Texts that are safe to print: names of files and messages of others may hold anything."""

from __future__ import annotations

import re
import unicodedata

REPLACEMENT = "?"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that steer a terminal or turn the direction of writing."""


def make_printable(text: str) -> str:
    """Return a text without characters that would steer a terminal; line ends and tabs stay.

    Control characters, invisible ones and those that turn the direction of writing become a
    question mark, unusual spaces a space.
    """
    if text.isprintable():
        return text
    return "".join(map(_replace, text))


def replace_controls(text: str) -> str:
    """Return a text for a file, in which every control character is a question mark."""
    return CONTROLS.sub(REPLACEMENT, text)


def _replace(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    return " " if unicodedata.category(character) == "Zs" else REPLACEMENT
