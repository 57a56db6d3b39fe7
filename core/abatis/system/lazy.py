"""Public names of a package, imported when they are first used: the package itself loads fast."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(package: str, home: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package.

    Args:
        package: the package's own name.
        home: names by the module below ``abatis`` that defines them: ``{"api.ball": ("Ball",)}``.

    Returns:
        A function that imports the module of a name and returns what the name stands for.
    """
    module_of = {name: module for module, names in home.items() for name in names}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module '{package}' has no attribute {name!r}")
        state = random.getstate()
        try:
            return getattr(importlib.import_module(f"abatis.{module_of[name]}"), name)
        finally:
            random.setstate(state)  # rich draws random numbers while it is imported

    return find
