"""Networks that answer differently each time: gradients and verdicts are means over draws.

Athalye et al. (ICML 2018) call the mean gradient over a network's own randomness the expectation
over transformation (EOT). A single draw makes an attack look weak, and the worst of many draws
makes a network look worse than it is; so the accuracy under an attack is the mean over fresh
draws, for every point.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.api.context import Forward
from abatis.api.threat import Threat
from abatis.evaluate.isolation import halve_until_fits
from abatis.evaluate.judge import Attack, Clean, Judge, Verdicts, find_correct, pack_points
from abatis.evaluate.masking.probes import compute_logits, walk_path
from abatis.evaluate.pgd import STEP_SHARE, Objective, differentiate, draw_start, margin
from abatis.nets.net import Net
from abatis.system import distributed

ALIKE = 1e-4  # L2 distance of two logit vectors of length 1
REPEATS = 4  # forwards of the same images that are compared
TRIED = 64  # points on which the draws are counted
GRADIENT_DRAWS = (4, 8, 16, 32)  # the first number whose halves agree is taken
STABLE = 0.9  # cosine of the mean gradients of both halves, scaled to the whole; median
VERDICT_DRAWS = 20  # at least, and enough for ...
ALL_DRAWS = 2000  # ... so many over all points, but not more than ...
MOST_DRAWS = 100
DIAGNOSTIC = "masking: "  # begins the label of an attack of the diagnostics


def find_randomness(judge: Judge, seed: int) -> bool:
    """Does the network answer differently when it is asked again, by more than rounding?

    Asked are the images and random places of their balls, each batch several times.

    Raises:
        OutOfMemoryError: the device has no memory for a single image.
    """
    return halve_until_fits(lambda size: _find_randomness(judge, seed, size), judge.batch_size)


def _find_randomness(judge: Judge, seed: int, batch_size: int) -> bool:
    for batch in judge.points.eval_batches(batch_size):
        for place in (batch.x, draw_start(batch, judge.threat, seed)):
            first = F.normalize(compute_logits(judge.net, place), dim=1)
            for _ in range(1, REPEATS):
                again = F.normalize(compute_logits(judge.net, place), dim=1)
                if not bool((again - first).norm(dim=1).max() <= ALIKE):
                    return True
    return False


class MeanOfDraws(nn.Module):
    """The mean of a network's logits over several of its draws.

    Args:
        module: the network.
        draws: forwards for every answer.
    """

    def __init__(self, module: nn.Module, draws: int) -> None:
        super().__init__()
        self.module, self.draws = module, draws

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        total: Tensor = self.module(x)
        for _ in range(1, self.draws):
            total = total + self.module(x)
        return total / self.draws


def count_gradient_draws(judge: Judge) -> int:
    """How many draws make the direction of the mean gradient stable.

    The cosine of two independent means of k draws is c; that of a mean of k draws with the limit
    is then about sqrt(c), by the median over the points.
    """
    batch = next(iter(judge.points.eval_batches(min(TRIED, judge.batch_size))))
    for draws in GRADIENT_DRAWS:
        halves: list[Tensor] = []
        for _ in range(2):
            total = torch.zeros_like(batch.x)
            for _ in range(draws):
                total += differentiate(judge.net, batch.x, batch.y, margin)[2]
            halves.append(total.flatten(1))
        cosine = F.cosine_similarity(halves[0], halves[1], dim=1).clamp(min=0).sqrt()
        if float(cosine.median()) >= STABLE:
            return draws
    return GRADIENT_DRAWS[-1]


def count_verdict_draws(n: int) -> int:
    """How many draws decide about an image, where there are n points."""
    return min(MOST_DRAWS, max(VERDICT_DRAWS, ceil(ALL_DRAWS / n)))


@dataclass
class Draws:
    """How often each point was right, of so many draws.

    Args:
        number: of draws for each image.
        gradient: draws for each gradient.
        right: (n,) int64 by the attack's name; ``clean`` is without one, ``robust`` after all.
    """

    number: int
    gradient: int
    right: dict[str, Tensor] = field(default_factory=dict)

    def compute_mean(self, counts: Tensor) -> float:
        """The share of right draws of (n,) counts."""
        return int(counts.sum()) / (len(counts) * self.number)

    def describe(self) -> str:
        """Return one sentence about the draws."""
        robust = self.right["robust"]
        majority, worst = (
            100 * int(flags.sum()) / len(robust)
            for flags in (2 * robust > self.number, robust == self.number)
        )
        return (
            f"the network answers at random: accuracies are means over {self.number} draws, "
            f"gradients over {self.gradient}; every attack was withstood in "
            f"{100 * self.compute_mean(robust):.2f} % of the draws, by the majority of the draws "
            f"of {majority:.2f} % of the images, and in every draw of {worst:.2f} %"
        )

    def to_json(self) -> dict[str, object]:
        """Return plain types: counts by point, and the majority and the worst draw beside them."""
        robust = self.right["robust"]
        return {
            "number": self.number,
            "gradient": self.gradient,
            "mean": self.compute_mean(robust),
            "majority": int((2 * robust > self.number).sum()) / len(robust),
            "worst": int((robust == self.number).sum()) / len(robust),
            "right": {name: counts.tolist() for name, counts in self.right.items()},
        }


@dataclass
class Worst:
    """The image of every point that the fewest draws got right.

    Args:
        images: (n, C, H, W) on the CPU.
        counts: how many draws these were, (n,) int64.
    """

    images: Tensor
    counts: Tensor

    def take(self, places: Tensor, images: Tensor, counts: Tensor) -> None:
        """Take the images, (B, C, H, W), that fewer draws got right, (B,), than those so far."""
        rows = counts < self.counts[places]
        self.images[places[rows]] = images.detach().cpu()[rows]
        self.counts[places[rows]] = counts[rows]


class DrawJudge(Judge):
    """A judge whose verdicts are means over draws, and whose attacks see a mean of answers.

    Args:
        judge: of the mean of several draws, which attacks see.
        single: the network itself, one draw for each call.
        draws: counts of all points.
        positions: of the judge's points among all, (m,) int64.
        worst: the images of all points; of the clean ones where not given.
    """

    def __init__(
        self,
        judge: Judge,
        single: Net,
        draws: Draws,
        positions: Tensor,
        worst: Worst | None = None,
    ) -> None:
        super().__init__(judge.net, judge.points, judge.threat, judge.batch_size, judge.progress)
        self.single, self.draws, self.positions = single, draws, positions
        self.random = True
        self._worst = worst

    @property
    def worst(self) -> Worst:
        """The images that decide in the end."""
        assert self._worst is not None, "classify_clean comes first"
        return self._worst

    def classify_clean(self) -> Clean:
        """Classify the clean images; right are those that most draws get right."""
        clean = super().classify_clean()
        batches = [*self.points.eval_batches(self.batch_size)]
        counts = torch.cat([self._count_right(batch.x, batch.y) for batch in batches])
        counts = distributed.first_says(counts)
        self.draws.right["clean"] = counts
        self._worst = Worst(torch.cat([batch.x.cpu() for batch in batches]), counts.clone())
        return replace(clean, correct=2 * counts > self.draws.number)

    def decide(self, labels: Tensor) -> None:
        """Count anew, with fresh draws, for the worst image of every point.

        The smallest of several counts lies below what it estimates; a fresh count does not.

        Args:
            labels: (n,) int64 of all points.
        """
        parts = zip(
            self.worst.images.split(self.batch_size), labels.split(self.batch_size), strict=True
        )
        like = next(iter(self.points.eval_batches(1)))
        counts = [self._count_right(x.to(like.x), y.to(like.y)) for x, y in parts]
        self.draws.right["robust"] = distributed.first_says(torch.cat(counts))

    def _count_right(self, x: Tensor, y: Tensor) -> Tensor:
        """How many draws get each image right, (B,) int64 on the CPU."""
        total = torch.zeros_like(y)
        for _ in range(self.draws.number):
            total += find_correct(compute_logits(self.single, x), y)
        return total.cpu()

    def _keep_worst(
        self, places: Tensor, batch: Batch, images: Tensor, right: Tensor, inside: Tensor
    ) -> None:
        """Take the images that fewer draws got right, twice: the least of many counts is luck.

        Args:
            places: of the images among the judge's points, (B,).
            batch: the clean images, and their labels.
            images: (B, C, H, W).
            right: how many draws were right, (B,).
            inside: which images are allowed, (B,) bool on the CPU.
        """
        positions = self.positions[places]
        rows = inside & (right < self.worst.counts[positions])
        if rows.any():
            on_device = rows.to(images.device)
            again = self._count_right(images[on_device], batch.y[on_device])
            self.worst.take(positions[rows], images[on_device], again)

    def _run_once(
        self, name: str, attack: Attack, robust: Tensor, label: str, batch_size: int
    ) -> Verdicts:
        """Attack the points; of their images, fresh draws decide, whatever the attack claims."""
        counts = self.draws.right["clean"][self.positions].clone()
        done, stray, total = 0, 0, int(robust.sum())
        self._report(label, done, total)
        for places, batch in pack_points(self.points, robust, batch_size):
            given = Batch(batch.x.clone(), batch.y.clone(), batch.index)
            with self.net.attack_mode():
                adversarial, _ = attack(given)
            inside = Ball(batch.x, self.threat).contains(adversarial)
            right = self._count_right(adversarial, batch.y)
            rows = inside.cpu()
            counts[places[rows]] = right[rows]
            self._keep_worst(places, batch, adversarial, right, rows)
            stray += int((~inside | (given.y != batch.y)).sum())
            done += len(batch)
            self._report(label, done, total)
        counts, stray = distributed.first_says((counts, stray))
        if not label.startswith(DIAGNOSTIC):
            known = self.draws.right["clean"].clone()
            known[self.positions] = counts
            self.draws.right[name] = known
        facts = {"attacked": total, "rejected": 0, "batch_size": batch_size}
        standing = robust & (2 * counts > self.draws.number)
        return Verdicts(name, standing, facts, stray=stray)


def make_deep_pgd(
    forward: Forward, threat: Threat, steps: int, seed: int, objective: Objective
) -> Attack:
    """Return PGD that goes all its way and gives the iterate of the highest objective.

    For a mean over draws there is no first success to stop at.
    """

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        start = draw_start(batch, threat, seed)
        found, highest = start.clone(), batch.x.new_full((len(batch),), -torch.inf)
        path = walk_path(forward, batch, threat, objective, start, steps, STEP_SHARE * threat.eps)
        for point, _, loss in path:
            better = loss > highest
            found[better], highest[better] = point[better], loss[better]
        return found, torch.ones_like(batch.y, dtype=torch.bool)

    return attack
