"""What a result depends on besides its options: versions and hardware. An allow-list; no variable of the environment."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from abatis.system.device import device_name

ENVIRONMENT = "environment.json"
LIBRARIES = (
    "abatis",
    "torch",
    "torchvision",
    "timm",
    "pyautoattack",
    "pluggy",
    "pydantic",
    "numpy",
    "safetensors",
)


def environment(device: torch.device, providers: Mapping[str, str]) -> dict[str, Any]:
    """Versions of the libraries and of the plan's plugins, the machine, and the words the program was called with."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "providers": dict(providers),
    }


def resumptions(folder: Path) -> list[str]:
    """How the run in a folder was resumed so far, as its last start wrote it down."""
    found = _recorded(folder, "resumed")
    return [str(text) for text in found] if isinstance(found, list) else []


def provided(folder: Path) -> dict[str, str]:
    """The versions of what the run in a folder was made of, by name, as its last start wrote them down."""
    found = _recorded(folder, "providers")
    return found if isinstance(found, dict) else {}


def _recorded(folder: Path, key: str) -> object:
    try:
        return json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
