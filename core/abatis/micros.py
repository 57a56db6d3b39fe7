"""The micro-batches of a step: attacked, given contexts on the draws of their rows, and gathered over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from abatis import processes
from abatis.promises import check_attacked, inside
from abatis.randomness import reseed
from abatis.types import Attacked, Batch, StepContext

if TYPE_CHECKING:
    from abatis.step import Step


class NotYetKnown(BaseException):
    """A gather whose values other micro-batches have not given yet; no plugin's ``except Exception`` may catch it."""

    def __init__(self, values: Tensor) -> None:
        self.values = values


@dataclass(frozen=True)
class Share:
    """Which rows of the global batch of ``of`` samples a process has: those from ``first`` on."""

    first: int
    of: int


class Micros:
    """The micro-batches of one step; every iteration yields fresh contexts, each on the draws that belong to its rows.

    gathered: what the calls of ``ctx.gather`` return, in order; None where one micro-batch is the whole batch.
    """

    def __init__(self, step: Step, batch: Batch, number: int, epoch: int, progress: float, share: Share) -> None:
        self.step, self.batch, self.number, self.epoch, self.progress = step, batch, number, epoch, progress
        self.share = share
        self.cuts = _cuts(len(batch), step.accumulate)
        self.gathered: list[Tensor] | None = None if len(self.cuts) == 1 else []
        self.inside: list[Tensor] = []  # (B,) bool of every micro-batch: did the attacker stay in the ball?
        self.attacked = [self._attack(rows) for rows in self.cuts]

    def __iter__(self) -> Iterator[StepContext]:
        for rows, (batch, attacked) in zip(self.cuts, self.attacked, strict=True):
            self._move(rows)
            yield StepContext(
                batch, attacked.x, attacked.info, self.step.net, self.number, self.epoch, self.progress,
                global_size=self.share.of, clean_first=self.step.plan.clean_first, gatherer=self._gatherer(),
            )  # fmt: skip

    def whole(self) -> StepContext:
        """A fresh context of all rows of this process, for trainer hooks."""
        batch, attacked = self.batch, self._joined
        self._move(slice(0, len(batch)))
        return StepContext(
            batch, attacked.x, attacked.info, self.step.net, self.number, self.epoch, self.progress,
            global_size=self.share.of, clean_first=self.step.plan.clean_first,
            gatherer=lambda values: processes.gathered(values, self.share.of),
        )  # fmt: skip

    @cached_property
    def _joined(self) -> Attacked:
        """What the attacker made of all rows."""
        parts = [part for _, part in self.attacked]
        if len(parts) == 1:
            return parts[0]
        info = {name: torch.cat([part.info[name] for part in parts]) for name in parts[0].info}
        # without an attack the adversarial images are the clean ones, the same tensor
        same = all(part.x is micro.x for micro, part in self.attacked)
        return Attacked(self.batch.x if same else torch.cat([part.x for part in parts]), info)

    def _move(self, rows: slice) -> None:
        random, first = self.step.random, self.share.first
        random.at(self.number, slice(first + rows.start, first + rows.stop), self.share.of)
        reseed(random.seed, f"step/{first + rows.start}", self.number)

    def _attack(self, rows: slice) -> tuple[Batch, Attacked]:
        """One micro-batch and its adversarial images, checked."""
        micro = self.batch if len(self.cuts) == 1 else self.batch.rows(rows)
        self._move(rows)
        net, plan = self.step.net, self.step.plan
        watched = plan.watched(plan.attacker_name, "attacker", net, micro)
        with net.whole(), net.attack_mode(self.step.batch_statistics), watched:
            attacked = plan.attacker(net, micro)
        # an attacker that goes beyond the threat by design says how far; what is judged is always the threat itself
        reach = getattr(plan.attacker, "reach", 1.0)
        check = check_attacked if self.step.watch is None else inside
        self.inside.append(check(attacked, micro, self.step.threat, plan.attacker_name, reach))
        return micro, attacked

    def _gatherer(self) -> Callable[[Tensor], Tensor]:
        if self.gathered is None:
            return lambda values: processes.gathered(values, self.share.of)
        calls = iter(self.gathered)

        def gather(values: Tensor) -> Tensor:
            known = next(calls, None)
            if known is None:
                raise NotYetKnown(values)
            return known

        return gather

    def gather(self) -> None:
        """Record what every call of ``ctx.gather`` returns: call k is exact once the calls before it are.

        A plan that gathers nothing pays for one pass, in its first step.
        """
        while self.gathered is not None and self.step.gathers != len(self.gathered):
            asked: list[Tensor] = []
            with self.step.net.whole(), self.step.net.buffers_restored():
                for ctx in self:
                    try:
                        self.step.plan.terms(ctx)
                    except NotYetKnown as signal:
                        asked.append(signal.values)
            if not asked:
                self.step.gathers = len(self.gathered)
            else:
                self.gathered.append(processes.gathered(torch.cat(asked), self.share.of))


def _cuts(size: int, parts: int) -> list[slice]:
    """Slices of nearly equal length that cover a batch."""
    edges = [size * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges) if start < stop]
