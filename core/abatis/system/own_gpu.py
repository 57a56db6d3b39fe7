"""Which GPU each of several processes uses, and that no two of them use the same one."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import torch

from abatis.errors import UsageError


def choose_gpu(asked: str) -> int | None:
    """Return the number of the visible GPU that this process of several uses; None for the CPU.

    A process that sees one GPU takes it, as under SLURM with one visible GPU per task; else it
    takes the GPU of its number on this machine.

    Args:
        asked: the value of ``--device``.

    Raises:
        UsageError: the device cannot be shared, or there are fewer GPUs than processes.
    """
    kind, _, number = asked.partition(":")
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return None
    if kind not in ("auto", "cuda"):
        raise UsageError(
            f"--device {asked}: several processes train on CPUs or on CUDA GPUs only",
            fix="start one process, or give --device cpu",
        )
    if number:
        raise UsageError(
            f"--device {asked} names one GPU, and there are several processes",
            fix="give --device cuda: each process takes a GPU of its own",
        )
    visible, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
    if visible <= 1:
        return 0 if visible else None  # without any, choosing the device says so
    if here > visible:
        raise UsageError(
            f"{here} processes on this machine, and torch sees {visible} GPUs",
            fix=f"start {visible} processes, or give --device cpu",
        )
    return local


def name_gpu(number: int | None) -> str:
    """Return what tells a GPU from all others, also from those of other machines; or nothing."""
    if number is None:
        return ""
    uuid = getattr(torch.cuda.get_device_properties(number), "uuid", "")
    return f"{socket.gethostname()} {uuid}" if uuid else ""


def check_own_gpus(names: Sequence[str]) -> None:
    """Raise UsageError where two processes use one GPU.

    Args:
        names: what :func:`name_gpu` returned in every process.
    """
    taken: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in taken:
            raise UsageError(
                f"processes {taken[name]} and {number} use the same GPU",
                where=name,
                fix="start one process per GPU; or let the scheduler give each task its own",
            )
        if name:
            taken[name] = number
