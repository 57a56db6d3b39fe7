"""What several tests share: plugins made on the spot, and runs small enough for a test."""

from __future__ import annotations

import tomllib
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


def write_metadata(distribution: Path, site: Path) -> None:
    """What pip would write into ``site`` beside the package of a distribution's folder: its metadata and entry points."""
    project = tomllib.loads((distribution / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    facts = {
        "Metadata-Version": "2.1",
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
    }
    (info / "METADATA").write_text(
        "".join(f"{key}: {value}\n" for key, value in facts.items()), encoding="utf-8"
    )
    entries = "".join(
        f"{name} = {module}\n" for name, module in project["entry-points"]["abatis.plugins"].items()
    )
    (info / "entry_points.txt").write_text(f"[abatis.plugins]\n{entries}", encoding="utf-8")
