"""The micro-batches of a step: each is attacked and gets a context on the draws of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from abatis.api.batch import Attacked, Batch
from abatis.api.context import StepContext
from abatis.api.randomness import reseed
from abatis.errors import PluginError
from abatis.system import distributed
from abatis.train.image_checks import check_attacked, find_inside
from abatis.train.statistics_forwards import repeat_forwards
from abatis.train.step_setup import StepSetup


class NotYetKnown(BaseException):
    """A gather whose values from other micro-batches are not known yet.

    A BaseException, so that no plugin's ``except Exception`` catches it.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values


@dataclass(frozen=True)
class RowShare:
    """The rows of the global batch that a process has.

    Attributes:
        first: The first of them.
        of: The number of rows in the global batch.
    """

    first: int
    of: int


class MicroBatches:
    """The micro-batches of one step. Each iteration yields fresh contexts, on the same draws.

    Args:
        setup: What every step works with.
        batch: This process's rows.
        number: The step's, from 0.
        epoch: From 0.
        progress: Share of the training done, in [0, 1).
        share: Which rows of the global batch these are.

    Attributes:
        gathered: What the calls of ``ctx.gather`` return, in order; None where there is only one
            micro-batch, which needs no second pass.
        inside: Which images the attacker left in the ball, (B,) bool of every micro-batch.
    """

    def __init__(
        self,
        setup: StepSetup,
        batch: Batch,
        number: int,
        epoch: int,
        progress: float,
        share: RowShare,
    ) -> None:
        self.setup = setup
        self.batch = batch
        self.number = number
        self.epoch = epoch
        self.progress = progress
        self.share = share
        self.cuts = _cut(len(batch), setup.accumulate)
        self.gathered: list[Tensor] | None = None if len(self.cuts) == 1 else []
        self.inside: list[Tensor] = []
        # forwards that move the statistics between two attacks change what is folded
        still = not setup.statistics.attack
        with setup.net.hold_folded() if still else nullcontext():
            self.attacked = [self._attack(rows) for rows in self.cuts]
        self._check_names()

    def __iter__(self) -> Iterator[StepContext]:
        for rows, (batch, attacked) in zip(self.cuts, self.attacked, strict=True):
            self._move_draws(rows)
            yield self._make_context(batch, attacked, self._make_gatherer())

    def whole(self) -> StepContext:
        """A fresh context of all rows of this process, for trainer hooks."""
        self._move_draws(slice(0, len(self.batch)))
        return self._make_context(self.batch, self._whole_attacked, self._gather_whole)

    def _make_context(
        self, batch: Batch, attacked: Attacked, gatherer: Callable[[Tensor], Tensor]
    ) -> StepContext:
        return StepContext(
            batch,
            attacked.x,
            attacked.info,
            self.setup.net,
            self.number,
            self.epoch,
            self.progress,
            global_size=self.share.of,
            clean_first=self.setup.plan.clean_first,
            gatherer=gatherer,
            summer=distributed.sum_over_processes,
            forwards=self.setup.statistics.loss,
            images=attacked.images,
            keeps_features=bool(self.setup.plan.features_for),
        )

    @cached_property
    def _whole_attacked(self) -> Attacked:
        """What the attacker returned for all rows."""
        parts = [attacked for _, attacked in self.attacked]
        if len(parts) == 1:
            return parts[0]
        info = {name: torch.cat([part.info[name] for part in parts]) for name in parts[0].info}
        # without an attack the adversarial images are the clean ones, the same tensor
        same = all(attacked.x is batch.x for batch, attacked in self.attacked)
        x = self.batch.x if same else torch.cat([part.x for part in parts])
        threats = [part.threat for part in parts if part.threat is not None]
        threat = torch.cat(threats) if threats else None
        names = parts[0].images
        images = {name: torch.cat([part.images[name] for part in parts]) for name in names}
        return Attacked(x, info, threat=threat, images=images)

    def _move_draws(self, rows: slice) -> None:
        """From here on, draws are those of these rows of the batch."""
        random, first = self.setup.random, self.share.first
        random.at(self.number, slice(first + rows.start, first + rows.stop), self.share.of)
        reseed(random.seed, f"step/{first + rows.start}", self.number)

    def _attack(self, rows: slice) -> tuple[Batch, Attacked]:
        """One micro-batch and its adversarial images, checked."""
        net, plan, moved_by = self.setup.net, self.setup.plan, self.setup.statistics.attack
        batch = self.batch if len(self.cuts) == 1 else self.batch.rows(rows)
        self._move_draws(rows)
        watched = plan.watch(plan.attacker_name, "attacker", net, batch)
        mode = net.attack_mode(self.setup.batch_statistics, keep_statistics="steps" in moved_by)
        with net.whole(), mode, watched:
            attacked = plan.attacker(net, batch)
        # an attacker that leaves the ball by design says how far; networks are judged without it
        reach = getattr(plan.attacker, "reach", 1.0)
        check = find_inside if self.setup.deferred else check_attacked
        threats = (self.setup.threat, *plan.run.further)
        inside = check(attacked, batch, threats, plan.attacker_name, reach)
        self.inside.append(inside)
        repeat_forwards(net, [word for word in moved_by if word != "steps"], batch.x, attacked.x)
        return batch, attacked

    def _check_names(self) -> None:
        """Raise PluginError where the attacker names other further images in other calls."""
        names = {tuple(sorted(attacked.images)) for _, attacked in self.attacked}
        if len(names) > 1:
            told = " and ".join(", ".join(some) or "none" for some in sorted(names))
            raise PluginError(
                f"attacker '{self.setup.plan.attacker_name}' gave the images {told} in one step",
                fix="give the same names in every call",
            )

    def sum_shown(self) -> dict[str, Tensor]:
        """What the attacker asks to be shown, () each: sums over the samples of this process."""
        sums: dict[str, Tensor] = {}
        for batch, attacked in self.attacked:
            values = {name: attacked.info[name].detach().float() for name in attacked.shown}
            rows = len(batch)
            add_to(
                sums, {name: one.reshape(rows, -1).mean(1).sum() for name, one in values.items()}
            )
        return sums

    def move_statistics_after(self) -> None:
        """Make the forwards that move the running statistics behind the update."""
        for batch, attacked in self.attacked:
            repeat_forwards(self.setup.net, self.setup.statistics.after, batch.x, attacked.x)

    def _gather_whole(self, values: Tensor) -> Tensor:
        return distributed.gather(values, self.share.of)

    def _make_gatherer(self) -> Callable[[Tensor], Tensor]:
        """What ``ctx.gather`` does in the next micro-batch."""
        if self.gathered is None:
            return self._gather_whole
        calls = iter(self.gathered)

        def gather(values: Tensor) -> Tensor:
            known = next(calls, None)
            if known is None:
                raise NotYetKnown(values)
            return known

        return gather

    def gather(self, calls: int | None) -> int | None:
        """Record what every call of ``ctx.gather`` returns.

        Call k is exact once the calls before it are. A plan that gathers nothing pays for one pass,
        in its first step.

        Args:
            calls: How many calls a micro-batch makes; None where that is not known yet.

        Returns:
            Their number, where there are several micro-batches.
        """
        while self.gathered is not None and calls != len(self.gathered):
            asked: list[Tensor] = []
            with self.setup.net.whole(), self.setup.net.restore_buffers():
                for ctx in self:
                    try:
                        self.setup.plan.terms(ctx)
                    except NotYetKnown as signal:
                        asked.append(signal.values)
            if not asked:
                calls = len(self.gathered)
            else:
                self.gathered.append(distributed.gather(torch.cat(asked), self.share.of))
        return calls


def _cut(size: int, parts: int) -> list[slice]:
    """Slices of nearly equal length that cover a batch."""
    edges = [size * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges) if start < stop]


def add_to(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Add values to running sums, name by name."""
    for name, value in values.items():
        sums[name] = sums[name] + value if name in sums else value
