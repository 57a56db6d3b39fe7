"""The plugins that the registry knows, installed or not, and how to get one that is missing.

The registry is in the package of an installed wheel, and at the root of the checkout in an editable
install.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from abatis.errors import UsageError

REINSTALL = "reinstall abatis"


def registry_file() -> Path:
    """The path of the registry; raises UsageError where it is missing."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "registry.toml", package.parents[1] / "registry.toml"):
        if path.is_file():
            return path
    raise UsageError("the registry is missing from this installation", fix=REINSTALL)


def check_is_unknown(name: str, why: str | None = None) -> None:
    """Raise UsageError where the registry knows a plugin that was not found.

    Args:
        name: The plugin's name, with hyphens.
        why: What needs it, if that is not the plugin itself.
    """
    if fix := say_how_to_install(name):
        raise UsageError(f"plugin '{name}' is known, but not installed", where=why, fix=fix)


def say_how_to_install(name: str) -> str | None:
    """How to install the plugin of that name; None for one that the registry does not know.

    The command for our own plugins looks into no package index, where a stranger might hold the
    name.
    """
    method = _read_methods().get(name)
    if method is None:
        return None
    if method.get("community"):
        return (
            f"install {method['distribution']}; {method.get('homepage') or 'its authors'} say how"
        )
    command = f"make wheels && pip install --no-index --find-links dist {method['distribution']}"
    return f"in a checkout of abatis: {command}"


@cache
def _read_methods() -> dict[str, dict[str, Any]]:
    """The registry's entries by name, unchecked; none where it cannot be read.

    ``defense registry check`` reports a broken one.
    """
    try:
        table = tomllib.loads(registry_file().read_text(encoding="utf-8"))
        return {method["name"]: method for method in table["method"] if method["distribution"]}
    except (UsageError, OSError, ValueError, LookupError, TypeError):
        return {}
