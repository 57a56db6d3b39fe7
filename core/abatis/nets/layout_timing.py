"""The layout of tensors inside a network, timed where it matters.

On the CPU channels_last is the faster one for the batches of most trainings, and the slower one
for updates from a few images.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from abatis.api.randomness import untouched
from abatis.nets.layout import CHANNELS_LAST, CONTIGUOUS
from abatis.nets.net import Net

SMALL = 16
"""Most images in a batch for which layouts are timed."""
LONG = 0.005
"""CPU seconds that an attack step takes at least where layouts are timed."""
CLEAR = 1.15
"""Contiguous memory is chosen where it is so many times as fast."""


def choose_layout(net: Net, x: Tensor, attack_steps: int) -> str:
    """Choose the faster layout for the steps of a training, of those :meth:`Net.tune` found.

    Args:
        net: tuned, and with parameters to train.
        x: images (B, C, H, W) of one step.
        attack_steps: gradients of the images in a step.

    Returns:
        By how much it is faster, in words; empty where nothing was timed.
    """
    timed = x.device.type == "cpu" and 2 <= len(x) <= SMALL  # norms refuse a single image
    if not timed or net.layout != CHANNELS_LAST:
        return ""
    with untouched():
        if _time_attack(net, x) < LONG:
            return ""
        seconds: dict[str, list[float]] = {CHANNELS_LAST: [], CONTIGUOUS: []}
        for _ in range(3):  # in turn: a busy machine slows both
            for layout, found in seconds.items():
                net.use_layout(layout)
                found.append(attack_steps * _time_attack(net, x) + _time_update(net, x))
    times = min(seconds[CHANNELS_LAST]) / min(seconds[CONTIGUOUS])
    net.use_layout(CONTIGUOUS if times >= CLEAR else CHANNELS_LAST)
    return f"channels_last takes {times:.2f} times as long as contiguous"


def _time_attack(net: Net, x: Tensor) -> float:
    """CPU seconds of a gradient of the images, as attacks take it."""
    x = x.detach().clone().requires_grad_()
    with net.attack_mode(), torch.enable_grad():
        began = time.thread_time()
        torch.autograd.grad(net(x).sum(), x)
        return time.thread_time() - began


def _time_update(net: Net, x: Tensor) -> float:
    """CPU seconds of a gradient of the parameters, with running statistics restored."""
    with net.restore_buffers(), torch.enable_grad():
        began = time.thread_time()
        torch.autograd.grad(net(x).sum(), net.list_parameters(), allow_unused=True)
        return time.thread_time() - began
