"""The versions and the hardware that a result depends on; nothing else of the environment."""

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
from abatis.system.secrets import mask_words

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


def collect_environment(device: torch.device, providers: Mapping[str, str]) -> dict[str, Any]:
    """Return the versions of libraries and plugins, the machine, and the command line."""
    return {
        "command": mask_words(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "libraries": {name: find_version(name) for name in LIBRARIES},
        "providers": dict(providers),
    }


def read_resumptions(folder: Path) -> list[str]:
    """Return how the run in a folder was resumed so far, as its last start recorded it."""
    found = _read_record(folder, "resumed")
    return [str(text) for text in found] if isinstance(found, list) else []


def read_providers(folder: Path) -> dict[str, str]:
    """Return the versions of the run's plugins by name, as its last start recorded them."""
    found = _read_record(folder, "providers")
    return found if isinstance(found, dict) else {}


def read_code(folder: Path) -> dict[str, str] | None:
    """Return the digests of the run's code as its last start recorded them; None without any."""
    found = _read_record(folder, "code")
    return found if isinstance(found, dict) else None


def _read_record(folder: Path, key: str) -> object:
    try:
        return json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def find_version(name: str) -> str | None:
    """Return the version of an installed distribution; None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
