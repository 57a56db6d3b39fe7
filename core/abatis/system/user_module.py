"""A Python file of the user's that no package contains: plugins and backbones."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import ModuleType


def run_file(path: Path, name: str, source: bytes) -> ModuleType:
    """Run a file's content as the module ``name``; raises whatever its code raises."""
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
    """Return ``PATH:LINE``, the last line of the file that an exception passed through.

    For a syntax error it is the line of that error; without a line it is ``PATH``.
    """
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return f"{path}:{error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f"{path}:{lines[-1]}" if lines else str(path)


def raised_at(error: BaseException) -> str:
    """Return ``FILE:LINE, in FUNCTION`` of the line that raised an exception."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}, in {frame.name}"
