"""Auto-PGD in one of several threats (E-AT), or in all of them (MAX).

E-AT (Croce and Hein, ICML 2022, arXiv 2105.12508): one threat n for a batch, with a probability
proportional to 1 - acc_n; acc_n is the share of the images of the whole training so far that were
classified correctly at every point of their attack in threat n. MAX (Tramer and Boneh, NeurIPS
2019, arXiv 1904.13000): all attacks on each image; that of the larger loss counts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abatis import (
    Attacked,
    Ball,
    Batch,
    Forward,
    Run,
    StepContext,
    Threat,
    TrainerHooks,
    auto_pgd,
    random_start,
)


def weigh_threats(right: Tensor, seen: Tensor) -> Tensor:
    """Return 1 - right / seen of every threat, (T,); equal weights until all were seen."""
    if not bool((seen > 0).all()):
        return torch.full_like(right, 1 / len(right))
    return 1 - right / seen


class Survivals(TrainerHooks):
    """Counts the images that were attacked in every threat, and those that survived."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.right, self.seen = torch.zeros(2, len(run.threats), dtype=torch.float64)  # (T,) each

    def choose(self) -> int:
        """Return the number of the threat of this step."""
        if len(self.seen) == 1:
            return 0
        weights = weigh_threats(self.right, self.seen)
        if float(weights.sum()) == 0:
            weights = torch.ones_like(weights)
        bounds = (weights / weights.sum()).cumsum(0)
        drawn = self.run.random.of_step("multi-norm/threat")
        return min(int((bounds <= drawn).sum()), len(weights) - 1)

    def after_update(self, ctx: StepContext) -> None:
        if len(self.seen) == 1:
            return
        survived = ctx.gather(ctx.info["survived"]).cpu()  # (N,)
        number = int(ctx.info["threat"][0])  # the same for the whole batch
        self.right[number] += survived.sum()
        self.seen[number] += len(survived)

    def state_dict(self) -> dict[str, Any]:
        return {"right": self.right.clone(), "seen": self.seen.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.right.copy_(state["right"])
        self.seen.copy_(state["seen"])


def attack_in(run: Run, threat: Threat, forward: Forward, batch: Batch) -> Attacked:
    """Run Auto-PGD in one threat, with the steps and the start of ``--attack.*``."""
    ball = Ball(batch.x, threat)
    start = random_start(run, ball)
    return auto_pgd(forward, ball, start, batch, run.attack.steps, run.ramp)


class OneThreat:
    """Attacks a whole batch in the threat that :class:`Survivals` chooses."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.survivals = run.shared(Survivals)

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        number = self.survivals.choose()
        found = attack_in(self.run, self.run.threats[number], forward, batch)
        own = torch.full_like(batch.y, number)
        return Attacked(found.x, {**found.info, "threat": own}, threat=own)


class LargestLoss:
    """Attacks every image in all threats, and keeps the one of the largest loss."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, forward: Forward, batch: Batch) -> Attacked:
        best, own = None, torch.zeros_like(batch.y)
        for number, threat in enumerate(self.run.threats):
            found = attack_in(self.run, threat, forward, batch)
            if best is None:
                best = found
                continue
            better = found.info["loss"] > best.info["loss"]  # (B,)
            own = torch.where(better, number, own)
            info = {
                name: torch.where(better, values, best.info[name])
                for name, values in found.info.items()
            }
            info["survived"] = found.info["survived"] & best.info["survived"]
            best = Attacked(torch.where(better.view(-1, 1, 1, 1), found.x, best.x), info)
        assert best is not None
        return Attacked(best.x, {**best.info, "threat": own}, threat=own)
