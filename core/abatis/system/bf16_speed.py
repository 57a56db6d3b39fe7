"""How fast a device computes in bfloat16: some have the type, but no arithmetic for it."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

SECONDS = 0.8  # that the measurement may take
TRIES = 5
IMAGES = {"cuda": 128}  # in the measured batch; 16 on other devices


def measure_bf16(device: torch.device) -> float:
    """Return how many times as long a convolution takes in bfloat16 as in float32.

    In channels_last, as in the passes of a run.
    """
    x = torch.ones(IMAGES.get(device.type, 16), 64, 16, 16, device=device)
    weight = torch.ones(64, 64, 3, 3, device=device)
    kinds = [
        [part.to(kind, memory_format=torch.channels_last) for part in (x, weight)]
        for kind in (torch.float32, torch.bfloat16)
    ]
    best = [float("inf")] * len(kinds)
    started = time.perf_counter()
    for trial in range(TRIES + 1):
        for place, (images, kernel) in enumerate(kinds):
            seconds = _time_convolution(images, kernel)
            if trial:  # the first one is a warm-up
                best[place] = min(best[place], seconds)
        if trial and time.perf_counter() - started > SECONDS:
            break
    return best[1] / best[0]


@torch.no_grad()
def _time_convolution(x: Tensor, weight: Tensor) -> float:
    """Seconds of one convolution; the host waits for it."""
    started = time.perf_counter()
    float(F.conv2d(x, weight, padding=1).flatten()[0])
    return time.perf_counter() - started
