"""Counts what operations cost: memory, floating-point operations, bytes moved and launches."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from abatis.system.convolution_memory import count_scratch

BLOCK = 512  # bytes; torch's allocator on GPUs rounds up to them
COSTLESS = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty_strided")


class TooLong(BaseException):
    """Counting took too long. A BaseException, so that no plugin catches it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:g} s")
        self.seconds = seconds


class CostMeter(TorchDispatchMode):
    """Counts the operations inside; on fake tensors too, which compute nothing.

    Args:
        seconds: after that many of CPU time, an operation raises :class:`TooLong`.
        on_cpu: count the memory that the CPU's convolutions take while they run, too.

    Attributes:
        held: bytes of the tensors that were made inside and still exist.
        peak: the most of them since the last ``restart``.
        flop: floating-point operations of convolutions, products and attention, by type.
        moved: bytes that the other operations read and write.
        launches: number of operations that compute something.
    """

    def __init__(self, seconds: float, on_cpu: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self.seconds = seconds
        self.on_cpu = on_cpu
        self._started = time.thread_time()
        self.held = self.peak = 0
        self._known: set[int] = set()
        self.restart()

    def restart(self) -> None:
        """Count anew; what is held stays held."""
        self.peak = self.held
        self.flop: Counter[torch.dtype] = Counter()
        self.moved = self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.thread_time() - self._started > self.seconds:
            raise TooLong(self.seconds)
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._hold(tensor.untyped_storage())
        asked = func.namespace == "prim"  # for the device of a tensor
        if asked or func.is_view or func.overloadpacket.__name__ in COSTLESS:
            return out
        self.launches += 1
        scratch = count_scratch(func, args, out, self.on_cpu)
        self.peak = max(self.peak, self.held + scratch)
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        count = flop_registry.get(func.overloadpacket)
        if count is None:
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in read + made)
        else:
            self.flop[read[0].dtype] += count(*args, **kwargs, out_val=out)
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed."""
        place = storage._cdata
        if place in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._known.add(place)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.held -= size
