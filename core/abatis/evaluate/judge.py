"""The judge: the one place where attacks are run and where their success is checked."""

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
from abatis.evaluate.isolation import T, halve_until_fits, isolate
from abatis.nets.layout import CHANNELS_LAST, LOGITS_TOLERANCE
from abatis.nets.net import Net
from abatis.system import distributed

Attack = Callable[[Batch], tuple[Tensor, Tensor]]
"""From a batch to adversarial images (B, C, H, W) and the attack's claim which of them fool the
network, (B,) bool."""

Progress = Callable[[str, int, int], None]
"""Called with the name of the current attack, the number of images done and the number of all."""

TUNED = 8  # images on which a faster forward pass must give the same logits
TOLERANCE = 1e-5  # how far outputs may be from a distribution and still look like one


class Points(Protocol):
    """The images to judge on; ``eval_batches`` always yields them in the same order."""

    def __len__(self) -> int: ...
    def eval_batches(self, batch_size: int) -> Iterator[Batch]: ...
    def subset(self, positions: Tensor) -> Points:
        """The points at some positions, (m,) int64, in that order."""


class Keeper(Protocol):
    """Keeps the adversarial images that did not fool the network."""

    def keep(
        self, name: str, places: Tensor, images: Tensor, labels: Tensor, logits: Tensor
    ) -> None: ...
    def forget(self, name: str) -> None: ...
    def note_broken(
        self, name: str, places: Tensor, images: Tensor, labels: Tensor, logits: Tensor
    ) -> None:
        """The same of the images that count as broken."""


@dataclass(frozen=True)
class Verdicts:
    """Which points withstood one attack.

    Args:
        name: of the attack.
        robust: (n,) bool on the CPU: still classified correctly after this attack, in the order
            of the points.
        facts: ``attacked``: on how many points the attack ran; ``rejected``: how many images it
            claimed to fool the network with that did not pass the judge's check; ``batch_size``:
            the one that fitted into memory.
        warnings: of the attack's own library.
        stray: images outside the ball or [0, 1], with NaN, or with a label that the attack
            changed, whatever the attack claimed about them.
    """

    name: str
    robust: Tensor
    facts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    stray: int = 0

    @property
    def accuracy(self) -> float:
        """The share of all points that is still classified correctly."""
        return compute_share(self.robust)


@dataclass(frozen=True)
class Clean:
    """Results on the clean images.

    Args:
        correct: (n,) bool on the CPU.
        labels: (n,) int64 on the CPU.
        distribution: (n,) bool on the CPU: do the outputs look like probabilities?
        classes: K, the number of outputs.
        answers: (n,) int64 on the CPU, as of :func:`read_answers`.
    """

    correct: Tensor
    labels: Tensor
    distribution: Tensor
    classes: int
    answers: Tensor

    def at(self, positions: Tensor) -> Clean:
        """Return the results on the images at some positions, (m,) int64."""
        parts = (self.correct[positions], self.labels[positions], self.distribution[positions])
        return Clean(*parts, self.classes, self.answers[positions])


def compute_share(flags: Tensor) -> float:
    """Return the share of true entries of (n,) bool."""
    return int(flags.sum()) / len(flags)


def find_correct(logits: Tensor, y: Tensor) -> Tensor:
    """Return which points have finite logits and the right class alone on top: (B,) bool.

    Where classes share the top there is no answer, whichever of them ``argmax`` would name.
    """
    alone = (logits == logits.amax(1, keepdim=True)).sum(1) == 1
    return (logits.argmax(1) == y) & alone & logits.isfinite().all(1)


def read_answers(logits: Tensor) -> Tensor:
    """Return the class on top, K where all logits are equal, -1 where they are not finite.

    (B, K) -> (B,) int64.
    """
    flat = (logits == logits[:, :1]).all(1)
    named = torch.where(flat, logits.shape[1], logits.argmax(1))
    return torch.where(logits.isfinite().all(1), named, -1)


def judge_clean(module: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """Return which clean images are classified correctly: (n,) bool on the CPU.

    Raises:
        DataError: there are no images, or they are not in [0, 1].
        UsageError: the outputs are not one logit per class.
        NotFiniteError: a logit is NaN or infinite.
    """
    with isolate(module) as net:
        return _classify(net, batches).correct


class Judge:
    """Runs attacks on one network, on given points, under one threat.

    It lives inside :func:`~abatis.evaluate.isolation.isolate`.
    """

    def __init__(
        self,
        net: Net,
        points: Points,
        threat: Threat,
        batch_size: int,
        progress: Progress | None = None,
        withstood: Keeper | None = None,
    ) -> None:
        self.net, self.points, self.threat = net, points, threat
        self.batch_size, self.progress, self.withstood = batch_size, progress, withstood
        self.single = net  # asks once, where ``net`` may average over several answers
        self.random = False  # does the network answer differently each time?

    def classify_clean(self) -> Clean:
        """Classify the clean images. Raises what :func:`judge_clean` raises."""

        def run(batch_size: int) -> Clean:
            return _classify(
                self.net,
                self.points.eval_batches(batch_size),
                lambda done: self._report("clean", done, total),
            )

        total = len(self.points)
        return halve_until_fits(run, self.batch_size)

    def tune(self, layout: str = CHANNELS_LAST) -> None:
        """From now on run the network in the fastest way that does not change its logits.

        Args:
            layout: of tensors inside the network; contiguous where it cannot be channels_last.
        """
        self._try_on_some(lambda x: self.net.tune(x, step=False, layout=layout))

    @cached_property
    def steady(self) -> bool:
        """Are the logits of an image always the same, whatever else is in the batch?"""

        def same(x: Tensor) -> bool:
            with torch.no_grad():
                first, again, alone = self.net(x), self.net(x), self.net(x[:1])
            return torch.equal(first, again) and bool(
                (alone - first[:1]).abs().max() <= LOGITS_TOLERANCE * first.abs().max()
            )

        return self._try_on_some(same)

    def _try_on_some(self, run: Callable[[Tensor], T]) -> T:
        return halve_until_fits(
            lambda size: run(next(iter(self.points.eval_batches(size))).x),
            min(TUNED, self.batch_size),
        )

    def run_attack(
        self, name: str, attack: Attack, robust: Tensor, label: str | None = None
    ) -> Verdicts:
        """Run an attack and count only the images that pass the judge's own check.

        A point is broken if its adversarial image lies inside the ball and [0, 1] and a plain
        forward pass misclassifies it, whatever the attack claims.

        Args:
            name: of the attack.
            attack: sees copies of the points, so that it cannot change what is judged.
            robust: (n,) bool, the points to attack: those still classified correctly.
            label: the attack's name in progress reports, if it is another.

        Raises:
            OutOfMemoryError: the device has no memory for a single image.
        """
        return halve_until_fits(
            lambda size: self._run_once(name, attack, robust, label or name, size),
            self.batch_size,
        )

    def _run_once(
        self, name: str, attack: Attack, robust: Tensor, label: str, batch_size: int
    ) -> Verdicts:
        """Attack this process's share of the points; all processes return the same verdicts."""
        mine = robust & distributed.share_of(len(robust))
        if self.withstood is not None:
            self.withstood.forget(label)
        still, done, rejected, stray, total = robust.clone(), 0, 0, 0, int(mine.sum())
        self._report(label, done, total)
        for places, batch in pack_points(self.points, mine, batch_size):
            given = Batch(batch.x.clone(), batch.y.clone(), batch.index)
            with self.net.attack_mode():
                adversarial, claimed = attack(given)
            inside = Ball(batch.x, self.threat).contains(adversarial)
            with torch.no_grad():
                logits = self.net(adversarial)
            wrong = ~find_correct(logits, batch.y)  # (B,)
            broken = inside & wrong
            if self.withstood is not None:
                rows = (inside & ~wrong).nonzero().flatten()
                kept = adversarial[rows], batch.y[rows], logits[rows]
                self.withstood.keep(label, places[rows.cpu()], *kept)
                rows = broken.nonzero().flatten()
                kept = adversarial[rows], batch.y[rows], logits[rows]
                self.withstood.note_broken(label, places[rows.cpu()], *kept)
            still[places[broken.cpu()]] = False
            rejected += int((claimed & ~broken).sum())
            stray += int((~inside | (given.y != batch.y)).sum())
            done += len(batch)
            self._report(label, done, total)
        still, rejected, stray = (
            distributed.all_agree(still),
            distributed.sum_count(rejected),
            distributed.sum_count(stray),
        )
        facts = {"attacked": int(robust.sum()), "rejected": rejected, "batch_size": batch_size}
        return Verdicts(name, still, facts, stray=stray)

    def _report(self, label: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(label, done, total)


def _classify(
    net: Net, batches: Iterable[Batch], report: Callable[[int], None] | None = None
) -> Clean:
    correct: list[Tensor] = []
    labels: list[Tensor] = []
    distribution: list[Tensor] = []
    answers: list[Tensor] = []
    done, classes = 0, 0
    for batch in batches:
        with torch.no_grad():
            logits = net(batch.x)
        _check(batch, logits)
        correct.append(find_correct(logits, batch.y).cpu())
        labels.append(batch.y.cpu())
        distribution.append(_is_distribution(logits).cpu())
        answers.append(read_answers(logits).cpu())
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
    return Clean(
        correct=torch.cat(correct),
        labels=torch.cat(labels),
        distribution=torch.cat(distribution),
        classes=classes,
        answers=torch.cat(answers),
    )


def _check(batch: Batch, logits: Tensor) -> None:
    if batch.x.amin() < 0 or batch.x.amax() > 1:
        raise DataError(
            f"image values range over [{batch.x.amin():.3g}, {batch.x.amax():.3g}], not [0, 1]",
            where="evaluation",
            fix="use images in [0, 1], and normalise inside the model",
        )
    if logits.dim() != 2 or len(logits) != len(batch) or logits.shape[1] < 2:
        raise UsageError(
            f"the model's outputs have shape {tuple(logits.shape)} for {len(batch)} images",
            where="evaluation",
            fix=f"return one logit per class: ({len(batch)}, K) with K of at least 2",
        )
    odd = batch.index[~logits.isfinite().all(1)].tolist()
    if odd:
        raise NotFiniteError(
            f"the logits of {len(odd)} clean images are NaN or infinite",
            where=f"evaluation, images {', '.join(map(str, odd[:5]))}",
            fix="the training has diverged: judge an earlier checkpoint",
        )


def _is_distribution(outputs: Tensor) -> Tensor:
    """(B, K) -> (B,) bool."""
    inside = (outputs >= -TOLERANCE) & (outputs <= 1 + TOLERANCE)
    return inside.all(1) & ((outputs.sum(1) - 1).abs() <= TOLERANCE)


def pack_points(points: Points, wanted: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Batch]]:
    """Yield the wanted points, (n,) bool, in order and in full batches.

    With each batch come the positions of its points among all, (B,) int64.
    """
    parts: list[tuple[Tensor, ...]] = []
    seen = 0
    for batch in points.eval_batches(batch_size):
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
