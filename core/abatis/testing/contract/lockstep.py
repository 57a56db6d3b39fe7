"""Several processes simulated in one, one after the other.

Each simulated process works up to the first exchange whose values are not known yet. Then all of
them start again from the beginning. Work that is the same every time makes the same exchanges, so
after n repetitions the values of the first n exchanges are known.
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
    """An exchange that the other processes have not reached yet.

    It is not an Exception, so that no plugin catches it.
    """

    def __init__(self, kind: str, values: Tensor) -> None:
        self.kind, self.values = kind, values


class Lockstep:
    """Simulates ``count`` processes.

    Meanwhile the functions of ``abatis.system.distributed``, by which processes exchange values,
    are replaced.
    """

    def __init__(self, count: int) -> None:
        self.count, self.rank, self.calls = count, 0, 0
        self.known: list[list[Tensor]] = []  # of every exchange, the values of all processes

    def play(self, work: Callable[[], Result]) -> list[Result]:
        """Do the work in every process; returns what each of them returns.

        Raises:
            AssertionError: real processes would wait for each other for ever.
        """
        while True:
            outcomes = [self._run_one(rank, work) for rank in range(self.count)]
            waiting = [outcome for outcome in outcomes if isinstance(outcome, _Waits)]
            if not waiting:
                return [outcome for outcome in outcomes if not isinstance(outcome, _Waits)]
            alike = {(outcome.kind, outcome.values.shape[1:]) for outcome in waiting}
            assert (len(waiting), len(alike)) == (self.count, 1), (
                f"the processes make different exchanges ({len(waiting)} of {self.count} make one"
                " more): a run would hang. Every process must make the same calls of gather and"
                " sum_over_processes in the same order"
            )
            self.known.append([outcome.values for outcome in waiting])

    def _run_one(self, rank: int, work: Callable[[], Result]) -> Result | _Waits:
        self.rank, self.calls = rank, 0
        with self._replace_exchanges():
            try:
                return work()
            except _Waits as wait:
                return wait

    @contextmanager
    def _replace_exchanges(self) -> Iterator[None]:
        with patch.multiple(
            "abatis.system.distributed",
            rank=lambda: self.rank,
            world_size=lambda: self.count,
            several=lambda: True,
            gather=self._gather,
            sum_over_processes=self._sum_over_processes,
            all_agree=self._all_agree,
            average_gradients=_leave_unwrapped,
        ):
            yield

    def _exchange(self, kind: str, values: Tensor) -> list[Tensor]:
        number, self.calls = self.calls, self.calls + 1
        if number == len(self.known):
            raise _Waits(kind, values.detach().clone())
        return self.known[number]

    def _gather(self, values: Tensor, of: int) -> Tensor:
        whole = torch.cat(self._exchange("gather", values))
        assert len(whole) == of, f"gather got {len(whole)} values from {of} samples"
        return whole

    def _sum_over_processes(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        own = torch.cat([tensor.flatten() for tensor in tensors])
        parts = (
            torch.stack(self._exchange("sum", own))
            .sum(0)
            .split([tensor.numel() for tensor in tensors])
        )
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def _all_agree(self, flags: Tensor) -> Tensor:
        return torch.stack(self._exchange("agree", flags)).all(0)


def _leave_unwrapped(module: nn.Module) -> tuple[nn.Module, Exchanging]:
    """Leave the gradients alone: the test averages them itself."""
    return module, lambda now: nullcontext()
