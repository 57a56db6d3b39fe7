"""What a result depends on besides its options: versions and hardware. An allow-list; no variable of the environment."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ENVIRONMENT = "environment.json"
LIBRARIES = ("abatis", "torch", "torchvision", "timm", "pyautoattack", "pluggy", "pydantic", "numpy", "safetensors")


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


def device_name(device: torch.device) -> str:
    """The model of a GPU, else the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def peak_memory_mb(device: torch.device) -> float:
    """The most memory held so far, in MiB: on the device where it keeps count, else by the whole process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
