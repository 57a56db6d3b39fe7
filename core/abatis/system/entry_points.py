"""Entry points of installed distributions, read from their files.

``importlib.metadata`` takes as long to load as the whole of ``defense --help``. Only plain folders
on ``sys.path`` are looked at, which is where pip installs.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

FILE = "entry_points.txt"
INFO = re.compile(r"(?P<name>.+?)(-[^-]+)?\.(dist|egg)-info")


class EntryPoint(NamedTuple):
    """One entry point: its name, ``module:attribute``, and the distribution it comes from."""

    name: str
    value: str
    distribution: str

    def load(self) -> Any:
        """The object behind it; raises whatever importing its module raises."""
        module, _, attributes = self.value.partition(":")
        found: Any = importlib.import_module(module.strip())
        for attribute in filter(None, attributes.partition("[")[0].strip().split(".")):
            found = getattr(found, attribute)
        return found


def read_entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group; if a distribution is on the path twice, the first counts."""
    found: list[EntryPoint] = []
    seen: set[str] = set()
    for place in dict.fromkeys(sys.path):
        for folder, distribution in _list_distributions(place or os.curdir):
            key = re.sub(r"[-_.]+", "-", distribution).lower()
            if key not in seen:
                seen.add(key)
                found += [EntryPoint(*pair, key) for pair in _read_group(folder, group)]
    return found


def _list_distributions(place: str) -> Iterator[tuple[str, str]]:
    """The metadata folders in a folder of the path, with the names of their distributions."""
    try:
        names = sorted(os.listdir(place))
    except OSError:  # it is missing, a zip file, or not to be read
        return
    for name in names:
        if match := INFO.fullmatch(name):
            yield os.path.join(place, name), match["name"]


def _read_group(folder: str, group: str) -> Iterator[tuple[str, str]]:
    """The names and values of one group in a distribution's file."""
    try:
        with open(os.path.join(folder, FILE), encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:  # most distributions have none
        return
    if f"[{group}]" not in text:
        return
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]").strip()
        elif section == group and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()
