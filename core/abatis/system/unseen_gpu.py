"""An NVIDIA card in this machine that torch cannot use, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
LISTING = ("nvidia-smi", "-L")
PATIENCE = 10  # seconds for the listing


@dataclass(frozen=True)
class UnseenGpu:
    """Why torch cannot use a card, and how to fix it."""

    why: str
    fix: str

    def __str__(self) -> str:
        return f"torch cannot use this machine's NVIDIA card: {self.why}; {self.fix}"


def find_unseen_gpu() -> UnseenGpu | None:
    """Return why torch sees no CUDA device, where the machine has an NVIDIA card; else None."""
    if torch.cuda.is_available() or not _has_card():
        return None
    if torch.version.cuda is None:
        return UnseenGpu(
            f"torch {torch.__version__} is built without CUDA",
            "install a CUDA build of torch, as pytorch.org says under Get Started",
        )
    if VISIBLE in os.environ:
        return UnseenGpu(f"{VISIBLE}={os.environ[VISIBLE]}", f"unset {VISIBLE}, or name a card")
    return UnseenGpu(
        f"its driver has failed, or is too old for CUDA {torch.version.cuda}",
        "run nvidia-smi, and update the driver",
    )


def _has_card() -> bool:
    """Is there a card? Its device file says so, or the driver's own program."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    if shutil.which(LISTING[0]) is None:
        return False
    try:
        listed = subprocess.run(
            LISTING, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout
