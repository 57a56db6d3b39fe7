"""What several tests share: plugins made on the spot, and runs small enough for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from abatis import RunConfig, hookimpl

TINY: dict[str, Any] = {
    "backbone": "cnn",
    "data": "digits",
    "limit": 150,
    "batch_size": 32,
    "epochs": 2,
    "threat": "Linf:0.1",
    "attack": {"steps": 2},
    "eval": "none",
    "quiet": True,
}


def plugin(name: str, **hooks: Callable[..., Any]) -> ModuleType:
    """A module with these hooks: ``plugin("x", loss=function)`` has ``defense_loss``."""
    module = ModuleType(name)
    for hook, function in hooks.items():
        setattr(module, f"defense_{hook}", hookimpl(function))
    return module


def tiny(out: Path, **changes: Any) -> RunConfig:
    """A run on 135 digits that takes a second or two."""
    return RunConfig(**{**TINY, "out": out, **changes})


def final_bytes(folder: Path) -> bytes:
    """The last weights of a run, as they lie on the disk."""
    return (folder / "weights-last.safetensors").read_bytes()
