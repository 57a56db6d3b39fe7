"""One network under examination: its clean verdicts, and the one way attacks are run and believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.api.threat import Threat
from abatis.errors import DataError, NotFiniteError, UsageError
from abatis.evaluate.isolation import Result, halving, judging
from abatis.nets.net import SAME, Net
from abatis.system import distributed

Attack = Callable[[Batch], tuple[Tensor, Tensor]]
"""A batch of points to adversarial images (B, C, H, W) and the attack's own claim which of them fool, (B,) bool."""

Progress = Callable[[str, int, int], None]
"""Told the name of what is going on, the points done and the points in all."""

TUNED = 8  # images that show what leaves the logits as they are
TOLERANCE = 1e-5  # how far outputs may be from a distribution and still look like one


class Split(Protocol):
    """The points to judge on: ``eval_batches`` always gives them in the same order."""

    def __len__(self) -> int: ...
    def eval_batches(self, batch_size: int) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class First:
    """The first n points of a split."""

    split: Split
    n: int

    def __len__(self) -> int:
        return min(self.n, len(self.split))

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """In the split's own order."""
        left = len(self)
        for batch in self.split.eval_batches(min(batch_size, left)):
            yield batch.rows(slice(0, left))
            left -= len(batch)
            if left <= 0:
                return


@dataclass(frozen=True)
class Verdicts:
    """What one attack left standing.

    robust: (n,) bool on the CPU, still classified correctly after this attack, in the order of the split;
    facts: attacked, the points it was run on; rejected, its adversarial images that did not hold when checked again;
    batch_size, the one that fitted into memory; warnings: what the attack's own library said;
    stray: images outside ball or box, or not numbers, or with a label the attack changed, whatever it claimed of them.
    """

    name: str
    robust: Tensor
    facts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    stray: int = 0

    @property
    def accuracy(self) -> float:
        """The share of all points that is still classified correctly."""
        return share(self.robust)


@dataclass(frozen=True)
class Clean:
    """What the clean images showed.

    correct: (n,) bool, labels: (n,) int64 and distribution: (n,) bool, do the outputs look like probabilities?, on the CPU;
    classes: K, outputs of the network.
    """

    correct: Tensor
    labels: Tensor
    distribution: Tensor
    classes: int

    def first(self, n: int) -> Clean:
        """What the first n images showed."""
        return Clean(self.correct[:n], self.labels[:n], self.distribution[:n], self.classes)


def share(flags: Tensor) -> float:
    """The share of true ones among (n,) bool."""
    return int(flags.sum()) / len(flags)


def right(logits: Tensor, y: Tensor) -> Tensor:
    """Which points have finite logits and the right class on top: (B,) bool."""
    return (logits.argmax(1) == y) & logits.isfinite().all(1)


def clean_verdicts(module: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """Which points are classified correctly as they are: (n,) bool on the CPU.

    Raises DataError, UsageError or NotFiniteError where they cannot be judged.
    """
    with judging(module) as net:
        return _look(net, batches).correct


class Judge:
    """Asks one network about the points of one split under one threat; lives inside :func:`judging`."""

    def __init__(
        self,
        net: Net,
        split: Split,
        threat: Threat,
        batch_size: int,
        progress: Progress | None = None,
    ) -> None:
        self.net, self.split, self.threat = net, split, threat
        self.batch_size, self.progress = batch_size, progress

    def clean(self) -> Clean:
        """Look at the clean images. Raises DataError, UsageError or NotFiniteError where they cannot be judged."""

        def run(batch_size: int) -> Clean:
            return _look(
                self.net,
                self.split.eval_batches(batch_size),
                lambda done: self._report("clean", done, total),
            )

        total = len(self.split)
        return halving(run, self.batch_size)

    def tune(self) -> None:
        """From here on attacks run the network in the fastest way that leaves its logits as they are."""
        self._shown(lambda x: self.net.tune(x, step=False))

    @cached_property
    def steady(self) -> bool:
        """Does the network say the same of an image whenever it is asked, and whatever is in the batch?"""

        def same(x: Tensor) -> bool:
            with torch.no_grad():
                first, again, alone = self.net(x), self.net(x), self.net(x[:1])
            return torch.equal(first, again) and bool(
                (alone - first[:1]).abs().max() <= SAME * first.abs().max()
            )

        return self._shown(same)

    def _shown(self, run: Callable[[Tensor], Result]) -> Result:
        return halving(
            lambda size: run(next(iter(self.split.eval_batches(size))).x),
            min(TUNED, self.batch_size),
        )

    def attacked(
        self, name: str, attack: Attack, robust: Tensor, label: str | None = None
    ) -> Verdicts:
        """Run an attack on the points that are robust so far, (n,) bool, and believe only what is seen from outside.

        An image counts where it is inside ball and box and one plain forward gets it wrong. ``label`` names the attack
        in progress reports. Raises OutOfMemoryError.
        """
        return halving(
            lambda size: self._pass(name, attack, robust, label or name, size), self.batch_size
        )

    def _pass(
        self, name: str, attack: Attack, robust: Tensor, label: str, batch_size: int
    ) -> Verdicts:
        """This process attacks its share of the points; all processes leave with the same verdicts."""
        mine = robust & distributed.share_of(len(robust))
        still, done, rejected, stray, total = robust.clone(), 0, 0, 0, int(mine.sum())
        self._report(label, done, total)
        for places, batch in _packed(self.split, mine, batch_size):
            given = Batch(
                batch.x.clone(), batch.y.clone(), batch.index
            )  # what is judged stays out of the attack's hands
            with self.net.attack_mode():
                adversarial, claimed = attack(given)
            inside = Ball(batch.x, self.threat).contains(adversarial)
            broken = claimed & inside & self._wrong(adversarial, batch.y)  # (B,)
            still[places[broken.cpu()]] = False
            rejected += int((claimed & ~broken).sum())
            stray += int((~inside | (given.y != batch.y)).sum())
            done += len(batch)
            self._report(label, done, total)
        still, rejected, stray = (
            distributed.all_agree(still),
            distributed.total(rejected),
            distributed.total(stray),
        )
        facts = {"attacked": int(robust.sum()), "rejected": rejected, "batch_size": batch_size}
        return Verdicts(name, still, facts, stray=stray)

    def _wrong(self, adversarial: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return ~right(self.net(adversarial), y)

    def _report(self, label: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(label, done, total)


def _look(net: Net, batches: Iterable[Batch], report: Callable[[int], None] | None = None) -> Clean:
    correct: list[Tensor] = []
    labels: list[Tensor] = []
    distribution: list[Tensor] = []
    done, classes = 0, 0
    for batch in batches:
        with torch.no_grad():
            logits = net(batch.x)
        _check(batch, logits)
        correct.append(right(logits, batch.y).cpu())
        labels.append(batch.y.cpu())
        distribution.append(_is_distribution(logits).cpu())
        classes = logits.shape[1]
        done += len(batch)
        if report is not None:
            report(done)
    if not done:
        raise DataError(
            "there are no images to judge",
            where="evaluation",
            fix="choose a split that is not empty",
        )
    return Clean(torch.cat(correct), torch.cat(labels), torch.cat(distribution), classes)


def _check(batch: Batch, logits: Tensor) -> None:
    if batch.x.amin() < 0 or batch.x.amax() > 1:
        raise DataError(
            f"images span [{batch.x.amin():.3g}, {batch.x.amax():.3g}], not [0, 1]",
            where="evaluation",
            fix="normalise inside the model, and hand out images in [0, 1]",
        )
    if logits.dim() != 2 or len(logits) != len(batch) or logits.shape[1] < 2:
        raise UsageError(
            f"the model gives outputs of shape {tuple(logits.shape)} for {len(batch)} images",
            where="evaluation",
            fix=f"give one logit a class: ({len(batch)}, K) with K of at least 2",
        )
    odd = batch.index[~logits.isfinite().all(1)].tolist()
    if odd:
        raise NotFiniteError(
            f"the logits of {len(odd)} clean images are NaN or infinite",
            where=f"evaluation, images {', '.join(map(str, odd[:5]))}",
            fix="the weights have diverged: judge an earlier checkpoint",
        )


def _is_distribution(outputs: Tensor) -> Tensor:
    """(B, K) -> (B,) bool."""
    inside = (outputs >= -TOLERANCE) & (outputs <= 1 + TOLERANCE)
    return inside.all(1) & ((outputs.sum(1) - 1).abs() <= TOLERANCE)


def _packed(split: Split, wanted: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
    """The wanted points, (n,) bool, in order, packed into full batches, with their places in the split, (B,) int64."""
    parts: list[tuple[Tensor, ...]] = []
    seen = 0
    for batch in split.eval_batches(batch_size):
        rows = wanted[seen : seen + len(batch)].nonzero().flatten()
        parts.append((rows + seen, batch.x[rows], batch.y[rows], batch.index[rows]))
        seen += len(batch)
        while sum(len(part[0]) for part in parts) >= batch_size:
            places, x, y, index = (torch.cat(column) for column in zip(*parts, strict=True))
            yield places[:batch_size], Batch(x[:batch_size], y[:batch_size], index[:batch_size])
            parts = [(places[batch_size:], x[batch_size:], y[batch_size:], index[batch_size:])]
    places, x, y, index = (torch.cat(column) for column in zip(*parts, strict=True))
    if len(places):
        yield places, Batch(x, y, index)
