"""The micro-batches of a step: attacked, given contexts on the draws of their rows, and gathered over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from abatis.api.batch import Attacked, Batch
from abatis.api.context import StepContext
from abatis.api.randomness import Randomness, reseed
from abatis.api.threat import Threat
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.train.image_checks import check_attacked, inside
from abatis.train.plan import Plan


class NotYetKnown(BaseException):
    """A gather whose values other micro-batches have not given yet; no plugin's ``except Exception`` may catch it."""

    def __init__(self, values: Tensor) -> None:
        self.values = values


@dataclass(frozen=True)
class Engine:
    """What every step of a run works with.

    batch_statistics: does the attack run on those of the batch? deferred: is what must hold read later, not in the step?
    """

    net: Net
    plan: Plan
    threat: Threat
    random: Randomness
    batch_statistics: bool = False
    accumulate: int = 1
    clip_grad: float = 0.0
    deferred: bool = False


@dataclass(frozen=True)
class RowShare:
    """Which rows of the global batch of ``of`` samples a process has: those from ``first`` on."""

    first: int
    of: int


class MicroBatches:
    """The micro-batches of one step; every iteration yields fresh contexts, each on the draws that belong to its rows.

    gathered: what the calls of ``ctx.gather`` return, in order; None where one micro-batch is the whole batch.
    """

    def __init__(
        self,
        engine: Engine,
        batch: Batch,
        number: int,
        epoch: int,
        progress: float,
        share: RowShare,
    ) -> None:
        self.engine, self.batch, self.share = engine, batch, share
        self.number, self.epoch, self.progress = number, epoch, progress
        self.cuts = _cuts(len(batch), engine.accumulate)
        self.gathered: list[Tensor] | None = None if len(self.cuts) == 1 else []
        self.inside: list[
            Tensor
        ] = []  # (B,) bool of every micro-batch: did the attacker stay in the ball?
        self.attacked = [self._attack(rows) for rows in self.cuts]

    def __iter__(self) -> Iterator[StepContext]:
        for rows, (batch, attacked) in zip(self.cuts, self.attacked, strict=True):
            self._move(rows)
            yield self._context(batch, attacked, self._gatherer())

    def whole(self) -> StepContext:
        """A fresh context of all rows of this process, for trainer hooks."""
        batch, attacked = self.batch, self._joined
        self._move(slice(0, len(batch)))
        return self._context(
            batch, attacked, lambda values: distributed.gathered(values, self.share.of)
        )

    def _context(
        self, batch: Batch, attacked: Attacked, gatherer: Callable[[Tensor], Tensor]
    ) -> StepContext:
        return StepContext(
            batch,
            attacked.x,
            attacked.info,
            self.engine.net,
            self.number,
            self.epoch,
            self.progress,
            global_size=self.share.of,
            clean_first=self.engine.plan.clean_first,
            gatherer=gatherer,
            summer=distributed.summed,
        )

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
        random, first = self.engine.random, self.share.first
        random.at(self.number, slice(first + rows.start, first + rows.stop), self.share.of)
        reseed(random.seed, f"step/{first + rows.start}", self.number)

    def _attack(self, rows: slice) -> tuple[Batch, Attacked]:
        """One micro-batch and its adversarial images, checked."""
        micro = self.batch if len(self.cuts) == 1 else self.batch.rows(rows)
        self._move(rows)
        net, plan = self.engine.net, self.engine.plan
        watched = plan.watched(plan.attacker_name, "attacker", net, micro)
        with net.whole(), net.attack_mode(self.engine.batch_statistics), watched:
            attacked = plan.attacker(net, micro)
        # an attacker that goes beyond the threat by design says how far; what is judged is always the threat itself
        reach = getattr(plan.attacker, "reach", 1.0)
        check = inside if self.engine.deferred else check_attacked
        self.inside.append(check(attacked, micro, self.engine.threat, plan.attacker_name, reach))
        return micro, attacked

    def _gatherer(self) -> Callable[[Tensor], Tensor]:
        if self.gathered is None:
            return lambda values: distributed.gathered(values, self.share.of)
        calls = iter(self.gathered)

        def gather(values: Tensor) -> Tensor:
            known = next(calls, None)
            if known is None:
                raise NotYetKnown(values)
            return known

        return gather

    def gather(self, calls: int | None) -> int | None:
        """Record what every call of ``ctx.gather`` returns: call k is exact once the calls before it are.

        calls: how many there are in a micro-batch, None where that is not known yet; returns their number. A plan that
        gathers nothing pays for one pass, in its first step.
        """
        while self.gathered is not None and calls != len(self.gathered):
            asked: list[Tensor] = []
            with self.engine.net.whole(), self.engine.net.buffers_restored():
                for ctx in self:
                    try:
                        self.engine.plan.terms(ctx)
                    except NotYetKnown as signal:
                        asked.append(signal.values)
            if not asked:
                calls = len(self.gathered)
            else:
                self.gathered.append(distributed.gathered(torch.cat(asked), self.share.of))
        return calls


def _cuts(size: int, parts: int) -> list[slice]:
    """Slices of nearly equal length that cover a batch."""
    edges = [size * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges) if start < stop]
