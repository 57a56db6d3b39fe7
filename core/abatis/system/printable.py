"""Texts that are safe to print: names of files and messages of others may hold anything."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "?"


def make_printable(text: str) -> str:
    """Return a text without characters that would steer a terminal; line ends and tabs stay.

    Control characters, invisible ones and those that turn the direction of writing become a
    question mark, unusual spaces a space.
    """
    if text.isprintable():
        return text
    return "".join(map(_replace, text))


def _replace(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    return " " if unicodedata.category(character) == "Zs" else REPLACEMENT
