"""Code in a file of the user's that no package holds: plugins and backbones."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType


def run_file(path: Path, name: str, source: bytes) -> ModuleType:
    """The module ``name`` made of a file's content; raises whatever its code raises."""
    module = ModuleType(name)
    module.__file__ = str(path)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses, pydantic and pickle look it up there
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


def place_in(path: Path, error: BaseException) -> str:
    """``PATH:LINE``, the line of the file that an exception passed last or that is no Python; PATH where it passed none."""
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return f"{path}:{error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f"{path}:{lines[-1]}" if lines else str(path)


def raised_at(error: BaseException) -> str:
    """``FILE:LINE, in FUNCTION`` of the line that raised it, whoever's it is."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}, in {frame.name}"
