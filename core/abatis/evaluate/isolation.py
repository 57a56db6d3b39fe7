"""Isolation of an evaluation: it leaves the network and all global state unchanged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from abatis.api.randomness import untouched
from abatis.errors import OutOfMemoryError
from abatis.nets.net import Net
from abatis.system.arithmetic import use_full_float32
from abatis.system.torch_messages import is_out_of_memory

T = TypeVar("T")


@contextmanager
def isolate(module: nn.Module) -> Iterator[Net]:
    """Yield the network in eval mode, with frozen parameters, in full float32.

    At the end the module, the global random generators, the precision settings and Python's trace
    function are as they were before.
    """
    net = Net(module)
    trace = sys.gettrace()
    try:
        with untouched(), use_full_float32(), net.attack_mode(), net.restore_buffers():
            yield net
    finally:
        sys.settrace(trace)


def halve_until_fits(run: Callable[[int], T], batch_size: int) -> T:
    """Call ``run(batch_size)``, and again with half the batch while the device is out of memory.

    Raises:
        OutOfMemoryError: a batch of one image does not fit either.
    """
    while True:
        try:
            return run(batch_size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise OutOfMemoryError(
                    "the device has no memory left for a single image",
                    where="evaluation",
                    fix="free the device's memory, or use another device",
                ) from error
        # Here the error is gone, and with it the tensors of the failed attempt.
        batch_size //= 2
