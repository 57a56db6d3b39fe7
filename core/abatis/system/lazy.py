"""Public names of a package that are imported when they are first used, so that the package itself loads quickly."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(package: str, home: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """What a package defines as ``__getattr__``.

    Args:
        package: the package's own name.
        home: names by the module, below ``abatis``, that they live in.
    """
    module_of = {name: module for module, names in home.items() for name in names}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module '{package}' has no attribute {name!r}")
        state = random.getstate()
        try:
            return getattr(importlib.import_module(f"abatis.{module_of[name]}"), name)
        finally:
            random.setstate(state)  # rich draws while it is imported

    return find
