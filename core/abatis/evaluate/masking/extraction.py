"""Extraction: attacks on a substitute that was trained on the judged network's own answers.

The substitute (Papernot et al., AsiaCCS 2017) sees labels only, so it needs neither gradients nor
logits, and a network that hides its gradient or the slope of its logits does not mislead it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.api.randomness import per_sample
from abatis.api.threat import Threat
from abatis.evaluate.isolation import halve_until_fits
from abatis.evaluate.judge import (
    Attack,
    Clean,
    Judge,
    Points,
    Verdicts,
    find_correct,
    pack_points,
    read_answers,
)
from abatis.evaluate.masking.probes import compute_logits, walk_path
from abatis.evaluate.masking.random_search import make_label_search, make_square_search
from abatis.evaluate.masking.record import FEW
from abatis.evaluate.masking.search import Search
from abatis.evaluate.masking.surrogate import Surrogate, shrink
from abatis.evaluate.pgd import STEP_SHARE, Objective, margin
from abatis.evaluate.randomised import make_deep_pgd

QUERIES = 53  # questions a point: the image, COPIES moved copies, and the rest in ROUNDS
COPIES = 12
ROUNDS = 4
LABEL_SEARCH = "label search from extraction"
EPOCHS, MORE_EPOCHS = 30, 10  # of the first training, and of each that follows
STEPS = 10  # of PGD on the substitute
RIVALS = 9  # classes that the attacks on the substitute aim at
WIDE = 2.5  # half of the moved copies lie in a ball so many times as large
GROUP = 256  # points that share a substitute
PRACTICE = 64  # so many points are attacked in the rounds, if need be some that are broken already
SQUARE_QUERIES = 500  # of the search by margins that starts at the images so made
DEEP_STEPS = 40  # of PGD on the last substitute of a network that answers at random
DEEP_RIVALS = 3
LABEL_QUERIES = (1000, 3000, 6000)  # of searches by labels, each of which goes on from the last


def search_by_extraction(
    judge: Judge,
    clean: Clean,
    standing: Tensor,
    *,
    seed: int,
    queries: int = QUERIES,
    others: Points | None = None,
) -> Search:
    """Attack a substitute of the network, and search on from the images that this made.

    The network is asked under ``no_grad`` only, and its labels are all that is used, but for
    Square, which uses its margins. Where it answers at random, one wrong answer means little: all
    points are attacked to the end, by images that fool the substitute most in place of a search.

    Args:
        judge: inside :func:`~abatis.evaluate.isolation.isolate`; the threat is Linf or L2.
        clean: results on the clean images of the judge's points.
        standing: the points to attack, (n,) bool on the CPU.
        seed: of all draws.
        queries: questions a point from which the substitute learns, at least 14.
        others: further images that it learns from.

    Raises:
        OutOfMemoryError: the device has no memory for a single image.
    """
    wanted = torch.ones_like(standing) if judge.random else standing & clean.correct
    extraction = extract(judge, clean, wanted, seed=seed, queries=queries, others=others)
    attacks = {"extraction": (make_lookup(extraction.images), queries)}
    attacks |= (
        _list_deep_attacks(judge, extraction, seed)
        if judge.random
        else _list_searches(judge, extraction, seed)
    )
    verdicts: dict[str, Verdicts] = {}
    settings: dict[str, dict[str, object]] = {}
    left = wanted
    for name, (attack, asked) in attacks.items():
        verdicts[name] = judge.run_attack(name, attack, left, f"masking: {name}")
        settings[name] = {"queries": asked, "seed": seed}
        if judge.random:
            continue
        left = verdicts[name].robust
        if name == LABEL_SEARCH and int((wanted & ~left).sum()) <= FEW:
            break  # nothing was hidden from the other attacks, so that more would find nothing
    settings["extraction"] |= {"rounds": ROUNDS, "steps": STEPS, "answers": "labels"}
    return Search(verdicts, settings)


def _list_searches(
    judge: Judge, extraction: Extraction, seed: int
) -> dict[str, tuple[Attack, int]]:
    """Searches from the images of the extraction, each from where the last one ended."""
    forward, threat = judge.net, judge.threat
    starts: Mapping[int, Tensor] = extraction.images
    by_margin = make_square_search(forward, threat, seed, SQUARE_QUERIES, starts)
    attacks = {"Square from extraction": (by_margin, SQUARE_QUERIES)}
    for number, asked in enumerate(LABEL_QUERIES):
        ends: dict[int, Tensor] = {}
        by_label = make_label_search(forward, threat, seed + number, asked, starts, ends)
        attacks[f"{LABEL_SEARCH} {number + 1}" if number else LABEL_SEARCH] = by_label, asked
        starts = ends
    return attacks


def _list_deep_attacks(
    judge: Judge, extraction: Extraction, seed: int
) -> dict[str, tuple[Attack, int]]:
    """Longer ascents on the substitutes: of the margin, and to the nearest rivals."""
    rivals = min(DEEP_RIVALS, extraction.outputs - 1)
    names = ["extraction, deep", *(f"extraction, deep to {n + 1}" for n in range(rivals))]
    return {
        name: (make_deep_attack(extraction, judge.threat, number, seed), 0)
        for number, name in enumerate(names)
    }


@dataclass
class Extraction:
    """What the attacks on substitutes made.

    Args:
        outputs: the number of classes.
        images: by the point's index, the image that fools the network, or the best one for the
            substitute: (C, H, W) on the CPU.
        substitutes: of every group of points.
        groups: by the point's index, the number of its substitute.
    """

    outputs: int
    images: dict[int, Tensor] = field(default_factory=dict)
    substitutes: list[Surrogate] = field(default_factory=list)
    groups: dict[int, int] = field(default_factory=dict)

    def split(self, index: Tensor) -> Iterator[tuple[Tensor, Surrogate]]:
        """Yield the rows of points that share a substitute, by the points' indices (B,)."""
        groups = torch.tensor([self.groups[place] for place in index.tolist()])
        for group in groups.unique().tolist():
            yield (groups == group).nonzero().flatten().to(index.device), self.substitutes[group]


def extract(
    judge: Judge,
    clean: Clean,
    wanted: Tensor,
    *,
    seed: int,
    queries: int = QUERIES,
    others: Points | None = None,
) -> Extraction:
    """Train substitutes, and attack them in rounds of attack and training.

    All processes do the same work. See :func:`search_by_extraction` for the arguments.
    """
    found = Extraction(clean.classes)
    further = None if others is None else next(iter(others.eval_batches(GROUP)), None)
    for places, batch in pack_points(judge.points, wanted | clean.correct, GROUP):
        if not wanted[places].any():
            continue
        found.groups |= dict.fromkeys(batch.index.tolist(), len(found.substitutes))
        group = _Group(judge, batch, clean.classes, seed)
        with judge.net.attack_mode():
            group.begin(further)
            group.attack(wanted[places].to(batch.y.device), queries - 1 - COPIES)
        found.substitutes.append(group.substitute)
        images = group.best.cpu()
        found.images |= {place: images[row] for row, place in enumerate(batch.index.tolist())}
    return found


class _Group:
    """Some points, the questions about them, and their substitute.

    Attributes:
        best: (B, C, H, W): images that fool, or the last ones made.
        standing: (B,) bool, the points that no question has broken.
    """

    def __init__(self, judge: Judge, batch: Batch, outputs: int, seed: int) -> None:
        self.judge, self.batch, self.seed, self.outputs = judge, batch, seed, outputs
        self.ball = Ball(batch.x, judge.threat)
        self.best = batch.x.clone()
        self.standing = torch.ones_like(batch.y, dtype=torch.bool)
        # one more answer stands for no answer: all logits equal, or some of them not finite
        self.substitute = Surrogate(batch.x.shape[1:], outputs + 1, seed, batch.x.device)
        self.questions: list[Tensor] = []
        self.answers: list[Tensor] = []

    def begin(self, further: Batch | None) -> None:
        """Ask about the images, and about moved copies of them."""
        self._learn(self.batch.x)
        wide = replace(self.judge.threat, eps=WIDE * self.judge.threat.eps)
        for number in range(COPIES):
            threat = wide if number % 2 else self.judge.threat
            point = draw_copy(self.batch, threat, self.seed, number, edge=number % 4 < 2)
            self._ask(torch.arange(len(point), device=point.device), point)
        if further is not None:
            self._learn(further.x)

    def attack(self, wanted: Tensor, queries: int) -> None:
        """Attack the substitute in rounds, and train it again on what the network said."""
        rivals = min(RIVALS, self.outputs - 1)
        for turn in range(ROUNDS):
            self.substitute.fit(
                torch.cat(self.questions),
                torch.cat(self.answers),
                MORE_EPOCHS if turn else EPOCHS,
            )
            for number in range(queries * turn // ROUNDS, queries * (turn + 1) // ROUNDS):
                rows = self._choose(wanted)
                if not len(rows):
                    return
                some = Batch(self.batch.x[rows], self.batch.y[rows], self.batch.index[rows])
                start = draw_copy(some, self.judge.threat, self.seed, COPIES + number)
                logits = compute_logits(self.substitute, start)[:, : self.outputs]
                goal = aim(logits, some.y, number % (rivals + 1))
                self._ask(rows, _ascend(self.substitute, some, self.judge.threat, goal, start))

    def _choose(self, wanted: Tensor) -> Tensor:
        """The rows to attack: the wanted ones that stand, and others that stand for practice."""
        rows = (self.standing & wanted).nonzero().flatten()
        if not len(rows):
            return rows
        spare = (self.standing & ~wanted).nonzero().flatten()
        return torch.cat([rows, spare[: max(PRACTICE - len(rows), 0)]])

    def _ask(self, rows: Tensor, point: Tensor) -> None:
        """Ask the network about an image of some rows, and note whom it fools."""
        logits = self._learn(point)
        wrong = ~find_correct(logits, self.batch.y[rows])
        inside = Ball(self.batch.x[rows], self.judge.threat).contains(point)
        new = self.standing[rows] & inside
        self.best[rows[new]] = point[new]
        if not self.judge.random:
            self.standing[rows[new & wrong]] = False

    def _learn(self, point: Tensor) -> Tensor:
        """Ask the network about images, and keep its answers for the substitute."""
        logits = halve_until_fits(
            lambda size: torch.cat(
                [compute_logits(self.judge.net, part) for part in point.split(size)]
            ),
            self.judge.batch_size,
        )
        self.questions.append(shrink(point).cpu())
        answers = read_answers(logits)
        self.answers.append(torch.where(answers < 0, self.outputs, answers).cpu())
        return logits


def aim(logits: Tensor, y: Tensor, number: int) -> Objective:
    """Return the margin for number 0, else the margin to the rival of that rank.

    Args:
        logits: of a substitute where the attack starts, (B, K).
        y: labels, (B,).
        number: 0 to K - 1.
    """
    if not number:
        return margin
    others = logits.scatter(1, y[:, None], -torch.inf)
    rival = others.topk(number, 1).indices[:, -1:]  # (B, 1)
    return lambda z, true: (z.gather(1, rival) - z.gather(1, true[:, None])).squeeze(1)


def draw_copy(batch: Batch, threat: Threat, seed: int, number: int, edge: bool = False) -> Tensor:
    """Draw a point of every image's ball, or of its edge: (B, C, H, W)."""
    uniform, normal = (
        per_sample(kind, seed, f"extraction/{kind}/{number}", batch.index, batch.x)
        for kind in ("uniform", "normal")
    )
    ball = Ball(batch.x, threat)
    if edge:
        return ball.climb(batch.x.clone(), normal, threat.eps)
    return ball.uniform_start(uniform, normal)


def _ascend(
    forward: Surrogate, batch: Batch, threat: Threat, goal: Objective, start: Tensor
) -> Tensor:
    """Return the last iterate of PGD on the substitute, which went on where it was fooled."""
    *_, (point, _, _) = walk_path(
        forward, batch, threat, goal, start, STEPS, STEP_SHARE * threat.eps
    )
    return point


def make_deep_attack(extraction: Extraction, threat: Threat, number: int, seed: int) -> Attack:
    """Return PGD on the substitutes from the clean images, by the goal of :func:`aim`."""

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        found = batch.x.clone()
        for rows, substitute in extraction.split(batch.index):
            some = Batch(batch.x[rows], batch.y[rows], batch.index[rows])
            logits = compute_logits(substitute, some.x)[:, : extraction.outputs]
            goal = aim(logits, some.y, number)
            pgd = make_deep_pgd(substitute, threat, DEEP_STEPS, seed, goal)
            found[rows] = pgd(some)[0]
        return found, torch.zeros_like(batch.y, dtype=torch.bool)

    return attack


def make_lookup(images: Mapping[int, Tensor]) -> Attack:
    """Return an attack whose images are known, (C, H, W) by the point's index."""

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        found = torch.stack([images[place] for place in batch.index.tolist()]).to(batch.x)
        return found, torch.zeros_like(batch.y, dtype=torch.bool)

    return attack
