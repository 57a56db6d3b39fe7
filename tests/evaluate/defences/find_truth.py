"""The true robust accuracy of every toy, by an attack that has read its source.

    python -m tests.evaluate.defences.find_truth            # all that truth.json lacks
    python -m tests.evaluate.defences.find_truth decoy cnn  # these, anew

PGD on the margin and on the cross-entropy of every stand-in that the toy names (the
straight-through gradient, the network behind, the mean over noise) and of two other networks, from
the image and from random starts, with gradients averaged over draws where the toy is random or
rippled; then Square.
Every step is shown to the toy itself. For a random toy the image with the lowest mean over draws
counts, and the truth is the mean over new draws. Images that break a toy with a memory are
confirmed alone on a copy that was asked nothing before.

Where a toy abstains, by flat logits or an output beyond the classes, a point is robust only if the
right answer stands; ``fooled`` is the share of points for which a wrong answer was accepted.

The number is an upper bound of the robust accuracy, as any attack's is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from abatis.evaluate.pgd import cross_entropy, margin
from abatis.nets.digest import weights_digest
from tests.evaluate.defences.cheats import forget
from tests.evaluate.defences.nets import EPS, Forward, Toy, train_cnn
from tests.evaluate.defences.table import TOYS, get_toy

RECORD = Path(__file__).parent / "truth.json"
STEPS = 40
RESTARTS = 4
DRAWS = 20  # per gradient; half as many for a first look at a random toy
FINAL = 200  # draws for the truth of a random toy
QUERIES = 3000


@dataclass
class Search:
    """The best image of every point so far.

    Attributes:
        x: (n, 1, 8, 8), the points.
        y: (n,) their labels.
        best: (n, 1, 8, 8), the image with the lowest share of right answers.
        right: (n,) that share: 0 or 1 for a toy that is not random.
        fooled: (n,) bool: was a wrong answer accepted? Only for a toy that abstains.
    """

    toy: Toy
    x: Tensor
    y: Tensor
    best: Tensor
    right: Tensor
    fooled: Tensor

    @property
    def draws(self) -> int:
        return int(getattr(self.toy, "draws", DRAWS)) if self.toy.random else 2

    @property
    def abstains(self) -> bool:
        return bool(getattr(self.toy, "abstains", False))

    @property
    def standing(self) -> Tensor:
        """The rows that still are right in some draw, or not fooled, (m,) int64."""
        left = self.right > 0
        return (left | ~self.fooled if self.abstains else left).nonzero().flatten()

    def measure(self, x: Tensor, y: Tensor, draws: int) -> Tensor:
        """Return the share of right answers, (B,)."""
        with torch.no_grad():
            looks = [self.toy.answer(x).argmax(1) == y for _ in range(draws)]
        right = torch.stack(looks).float().mean(0)
        return right * ~self.find_abstained(x) if self.abstains else right

    def find_abstained(self, x: Tensor) -> Tensor:
        """Return where the toy gives no answer, (B,) bool."""
        with torch.no_grad():
            logits = self.toy.answer(x)
        return (logits.argmax(1) > 9) | (logits.amax(1) == logits.amin(1))

    def show(self, rows: Tensor, x: Tensor) -> None:
        """Ask the toy about images of some rows, and keep those that are better."""
        right = self.measure(x, self.y[rows], self.draws // 2)
        better = right < self.right[rows]
        if self.toy.random and better.any():  # the lowest of many short looks is too low
            right[better] = self.measure(x[better], self.y[rows[better]], 3 * self.draws)
            better &= right < self.right[rows]
        self.best[rows[better]], self.right[rows[better]] = x[better], right[better]
        if self.abstains:
            self.fooled[rows] |= (right == 0) & ~self.find_abstained(x)


@cache
def list_strangers() -> list[nn.Module]:
    """Return two networks of other weights, one half robust."""
    return [train_cnn(7), train_cnn(7, EPS / 2)]


def differentiate(search: Search, source: Forward, x: Tensor, y: Tensor, objective: Any) -> Tensor:
    """Return the gradient at images, averaged over draws where the toy asks for it."""
    toy = search.toy
    draws = search.draws if toy.random else DRAWS // 2 if toy.noise else 1
    total = torch.zeros_like(x)
    for _ in range(draws):
        point = (x + toy.noise * torch.randn_like(x)).requires_grad_()
        with torch.enable_grad():
            loss = objective(source(point), y).sum()
        (gradient,) = torch.autograd.grad(loss, point)
        total += gradient.nan_to_num()
    return total


def ascend(search: Search, source: Forward, objective: Any, start: int) -> None:
    """Climb from one start; steps shrink from a quarter of the radius to a hundredth."""
    rows = search.standing
    x, y = search.x[rows], search.y[rows]
    noise = EPS * (2 * torch.rand_like(x) - 1)
    point = (
        x.clone() if not start else (x + (noise.sign() * EPS if start % 2 else noise)).clamp(0, 1)
    )
    for step in range(STEPS):
        gradient = differentiate(search, source, point, y, objective)
        size = EPS * 0.25 * (0.04 ** (step / STEPS))
        point = (point + size * gradient.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
        search.show(rows, point)


def list_attacks(toy: Toy) -> Iterator[tuple[Forward, Any, int]]:
    """Yield sources, objectives and starts."""
    for start in range(2 if toy.random else RESTARTS):
        for source in toy.list_sources():
            yield source, margin, start
            yield source, cross_entropy, start
    for stranger in list_strangers():
        yield stranger, margin, 1


def query(search: Search) -> None:
    """Run Square on what stands."""
    rows = search.standing
    if not len(rows):
        return
    square = SquareAttack(
        lambda x: search.toy.answer(x).clone(), eps=EPS, n_queries=QUERIES, device="cpu", seed=0
    )
    with torch.no_grad():
        search.show(rows, square.perturb(search.x[rows], search.y[rows]))


def confirm(name: str, search: Search) -> int:
    """Return how many broken points break a new copy that is asked about one image alone."""
    count = 0
    for image, label in zip(
        search.best[search.right == 0], search.y[search.right == 0], strict=True
    ):
        forget()
        with torch.no_grad():
            logits = get_toy(name)(image[None])
        flat = bool(logits.amax() == logits.amin())
        count += int(flat or int(logits.argmax()) != int(label))
    return count


def find_truth(name: str) -> dict[str, Any]:
    """Attack one toy; return its part of the record."""
    entry, began = TOYS[name], time.perf_counter()
    toy = get_toy(name)
    x, y = entry.get_points()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        search = Search(toy, x, y, x.clone(), torch.ones(len(x)), torch.zeros(len(x)).bool())
        clean = search.measure(x, y, FINAL if toy.random else 1)
        search.show(torch.arange(len(x)), x)
        for source, objective, start in list_attacks(toy):
            if len(search.standing):
                ascend(search, source, objective, start)
        if not toy.random:
            query(search)
        if toy.random:
            search.right = search.measure(search.best, y, FINAL)
    broken = int((search.right == 0).sum())
    return {
        "points": entry.choose_points().tolist(),
        "clean": round(float(clean.mean()), 4),
        "truth": round(float(search.right.mean()), 4),
        **({"fooled": round(float(search.fooled.float().mean()), 4)} if search.abstains else {}),
        "right": [round(one, 3) for one in search.right.tolist()],
        "images_of_others": entry.unseen,
        "confirmed": None if toy.random else [confirm(name, search), broken],
        "weights": weights_digest(toy),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Find what is asked or missing, and write after each."""
    torch.set_num_threads(1)
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    for name in sys.argv[1:] or [name for name in TOYS if name not in known]:
        known[name] = found = find_truth(name)
        print(
            f"{name}: clean {found['clean']:.1%}, true {found['truth']:.1%}, confirmed "
            f"{found['confirmed']}, {found['seconds']} s",
            flush=True,
        )
        ordered = {one: known[one] for one in TOYS if one in known}
        lines = [f" {json.dumps(one)}: {json.dumps(ordered[one])}" for one in ordered]
        RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
