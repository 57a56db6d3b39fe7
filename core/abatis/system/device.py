"""The device of a run: which one to use, its name, and its peak memory."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import torch

from abatis.errors import UsageError
from abatis.system import distributed

resource: Any = None
with suppress(ImportError):  # Windows has none
    import resource


def pick_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` takes the accelerator if there is one.

    Raises:
        UsageError: the device does not exist here.
    """
    if name == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        if found is not None and found.type == "cuda" and distributed.several():
            return torch.device("cuda", torch.cuda.current_device())  # each process has its own
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} is not available: {error}".splitlines()[0],
            fix="--device auto uses a GPU if there is one, else the CPU",
        ) from error
    return device


def device_name(device: torch.device) -> str:
    """Return the model of a GPU, else the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the peak memory so far in MiB: of a CUDA device, else of the whole process.

    None where the system does not say it.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
