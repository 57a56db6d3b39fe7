"""Adversarial images of each of several networks, shown to each of the others."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import nn

from abatis.api.ball import Ball
from abatis.api.threat import Threat
from abatis.errors import UsageError
from abatis.evaluate.isolation import halve_until_fits, isolate
from abatis.evaluate.judge import Points, Progress, find_correct
from abatis.evaluate.pgd import cross_entropy
from abatis.evaluate.randomised import make_deep_pgd
from abatis.nets.net import Net

STEPS = 20
ATTACK = f"PGD-{STEPS} on the cross-entropy, to its end; the image of the highest loss"


@dataclass(frozen=True)
class TransferMatrix:
    """How many points each network gets right.

    Args:
        names: of the networks.
        n: points.
        clean: right without an attack, by network.
        right: right on the images that were made for a network (row), by network (column); None
            where no gradient reaches the images of the row's network.
    """

    names: tuple[str, ...]
    n: int
    clean: tuple[int, ...]
    right: tuple[tuple[int, ...] | None, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain types."""
        return {
            "attack": ATTACK,
            "networks": list(self.names),
            "n": self.n,
            "clean": list(self.clean),
            "right": [None if row is None else list(row) for row in self.right],
        }


def measure_transfer(
    modules: Mapping[str, nn.Module],
    points: Points,
    threat: Threat,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
) -> TransferMatrix:
    """Attack each network, and ask all of them about its images.

    Args:
        modules: the networks by name, on one device; they are left as they are.
        points: the images, right or not.
        threat: norm and radius, Linf or L2.
        seed: of the attack's starts.
        batch_size: at most.
        progress: called after every batch.

    Raises:
        UsageError: PGD does not support the norm.
    """
    if threat.norm == "L1":
        raise UsageError(
            "--transfer: PGD does not support L1",
            fix="give a threat in Linf or L2, or leave it out",
        )
    with ExitStack() as stack:
        nets = {name: stack.enter_context(isolate(module)) for name, module in modules.items()}
        every = list(nets.values())
        clean = halve_until_fits(lambda size: _count_clean(every, points, size), batch_size)
        rows = [
            _attack_one(net, every, _Ask(points, threat, seed, batch_size, name, progress))
            for name, net in nets.items()
        ]
    return TransferMatrix(tuple(nets), len(points), clean, tuple(rows))


@dataclass(frozen=True)
class _Ask:
    """What is the same for all images of one network."""

    points: Points
    threat: Threat
    seed: int
    batch_size: int
    name: str
    progress: Progress | None

    def report(self, done: int) -> None:
        if self.progress is not None:
            self.progress(f"transfer from {self.name}", done, len(self.points))


def _attack_one(source: Net, nets: list[Net], ask: _Ask) -> tuple[int, ...] | None:
    """A row of the matrix; None where the network has no gradient."""
    try:
        return halve_until_fits(
            lambda size: _count_right(source, nets, replace(ask, batch_size=size)), ask.batch_size
        )
    except UsageError:
        return None


def _count_clean(nets: list[Net], points: Points, batch_size: int) -> tuple[int, ...]:
    counts = torch.zeros(len(nets), dtype=torch.int64)
    with torch.no_grad():
        for batch in points.eval_batches(batch_size):
            for place, net in enumerate(nets):
                counts[place] += int(find_correct(net(batch.x), batch.y).sum())
    return tuple(counts.tolist())


def _count_right(source: Net, nets: list[Net], ask: _Ask) -> tuple[int, ...]:
    attack = make_deep_pgd(source, ask.threat, STEPS, ask.seed, cross_entropy)
    counts, done = torch.zeros(len(nets), dtype=torch.int64), 0
    for batch in ask.points.eval_batches(ask.batch_size):
        with source.attack_mode():
            images, _ = attack(batch)
        inside = Ball(batch.x, ask.threat).contains(images)
        assert bool(inside.all()), "PGD left the ball"
        with torch.no_grad():
            for place, net in enumerate(nets):
                counts[place] += int(find_correct(net(images), batch.y).sum())
        done += len(batch)
        ask.report(done)
    return tuple(counts.tolist())
