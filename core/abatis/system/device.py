"""The device of a run: which one to use, its name, and its peak memory."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import torch

from abatis.errors import UsageError
from abatis.system import distributed
from abatis.system.unseen_gpu import find_unseen_gpu

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
        alone = not distributed.several()
        if found is None or (found.type != "cuda" and not alone):
            return torch.device("cpu")
        return found if alone else torch.device("cuda", torch.cuda.current_device())
    try:
        device = torch.device(name)
        if device.type == "cuda" and distributed.several():  # each process has its own
            device = torch.device("cuda", torch.cuda.current_device())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} is not available: {error}".splitlines()[0],
            fix=unseen.fix
            if name.startswith("cuda") and (unseen := find_unseen_gpu())
            else "--device auto uses a GPU if there is one, else the CPU",
        ) from error
    return device


def device_name(device: torch.device) -> str:
    """Return the model of a GPU, else the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def describe_device(device: torch.device) -> str:
    """Return the model of a device with its memory and, of a CPU, instruction set and threads."""
    if device.type == "cuda":
        room = torch.cuda.get_device_properties(device).total_memory
        return f"{device_name(device)}, {room / 2**30:.0f} GiB"
    if device.type != "cpu":
        return str(device)
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"CPU, {instructions}, {torch.get_num_threads()} threads{_describe_memory()}"


def describe_build() -> str:
    """Return what torch was built for."""
    if torch.version.hip is not None:
        return f"ROCm {torch.version.hip}"
    return "CPU only" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"


def _describe_memory() -> str:
    """The memory of this machine, as far as the system tells it."""
    try:
        room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return ""
    return f", {room / 2**30:.0f} GiB"


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the peak memory so far in MiB: of a CUDA device, else of the whole process.

    None where the system does not say it.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * unit / 2**20, 1)
