"""Several processes played in one: each in turn up to an exchange whose values are not known yet, then all from the start.

Work that is the same at every repetition makes the same exchanges, so after n repetitions the first n are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn

from abatis.system.distributed import Exchanging

Result = TypeVar("Result")


class _Waits(BaseException):
    """An exchange the others have not come to yet; no plugin's ``except Exception`` may catch it."""

    def __init__(self, kind: str, values: Tensor) -> None:
        self.kind, self.values = kind, values


class Lockstep:
    """Plays ``count`` processes. What they exchange goes through the functions of ``abatis.system.distributed``, replaced here."""

    def __init__(self, count: int) -> None:
        self.count, self.rank, self.calls = count, 0, 0
        self.known: list[list[Tensor]] = []  # of every exchange, the values of all processes

    def play(self, work: Callable[[], Result]) -> list[Result]:
        """What the work returns in every process; AssertionError where the processes would wait for each other for ever."""
        while True:
            outcomes = [self._one(rank, work) for rank in range(self.count)]
            waiting = [outcome for outcome in outcomes if isinstance(outcome, _Waits)]
            if not waiting:
                return [outcome for outcome in outcomes if not isinstance(outcome, _Waits)]
            alike = {(outcome.kind, outcome.values.shape[1:]) for outcome in waiting}
            assert (len(waiting), len(alike)) == (self.count, 1), (
                f"the processes make different exchanges ({len(waiting)} of {self.count} make one more): a run would hang; "
                "every process makes the same calls of gather and sum_over_processes in the same order"
            )
            self.known.append([outcome.values for outcome in waiting])

    def _one(self, rank: int, work: Callable[[], Result]) -> Result | _Waits:
        self.rank, self.calls = rank, 0
        with self._replaced():
            try:
                return work()
            except _Waits as wait:
                return wait

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        with patch.multiple(
            "abatis.system.distributed",
            rank=lambda: self.rank,
            world_size=lambda: self.count,
            several=lambda: True,
            gathered=self._gathered,
            summed=self._summed,
            all_agree=self._all_agree,
            shared=_unwrapped,
        ):
            yield

    def _exchange(self, kind: str, values: Tensor) -> list[Tensor]:
        number, self.calls = self.calls, self.calls + 1
        if number == len(self.known):
            raise _Waits(kind, values.detach().clone())
        return self.known[number]

    def _gathered(self, values: Tensor, of: int) -> Tensor:
        whole = torch.cat(self._exchange("gather", values))
        assert len(whole) == of, f"gather got {len(whole)} values from {of} samples"
        return whole

    def _summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        own = torch.cat([tensor.flatten() for tensor in tensors])
        parts = (
            torch.stack(self._exchange("sum", own))
            .sum(0)
            .split([tensor.numel() for tensor in tensors])
        )
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def _all_agree(self, flags: Tensor) -> Tensor:
        return torch.stack(self._exchange("agree", flags)).all(0)


def _unwrapped(module: nn.Module) -> tuple[nn.Module, Exchanging]:
    """Gradients are exchanged by whoever plays, not by a wrapper."""
    return module, lambda now: nullcontext()
