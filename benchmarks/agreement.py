"""Our PGD and DeepFool beside independent libraries: the same network, points, start and steps.

    python -m benchmarks.agreement

Run it in the root of the repository; it needs torchattacks, foolbox and adv-lib.

Writes benchmarks/results/agreement.json, and prints it as the table of docs/evaluation.md.
tests/evaluate/test_agreement.py holds the same rows to the same tolerances.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.known_networks import cifar10, known
from sklearn.datasets import load_digits
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.threat import Threat
from abatis.evaluate.deepfool import find_boundary, size
from abatis.evaluate.pgd import _ascend, cross_entropy, draw_start

RECORD = Path(__file__).parent / "results" / "agreement.json"
STEPS = 20
# of images, and 1e6 of logits, so that foolbox's constants (1e-4 on distances, 1e-8 on norms) do
# not count
STRETCH = 1e4
LINEAR = "digits, linear"
SQUEEZE = 4  # of images around the middle of [0, 1], where adv-lib's clipping never acts


@dataclass(frozen=True)
class Case:
    """A network with frozen parameters, in float64 so that rounding cannot hide a difference, and
    the radii to attack at.
    """

    name: str
    net: nn.Module
    points: Batch
    eps: dict[str, str]


def digits_case() -> Case:
    """A hidden layer with batch norm, trained on 1,400 digits; 100 others to attack."""
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x = x.view(-1, 1, 8, 8) / 16
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10)
        ).double()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(15):
            for rows in torch.randperm(1400).split(100):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    points = Batch(x[1400:1500], y[1400:1500], torch.arange(1400, 1500))
    return Case(
        "digits, one hidden layer",
        net.eval().requires_grad_(False),
        points,
        {"Linf": "0.06", "L2": "0.4"},
    )


def linear_case() -> Case:
    """Ten classes linear in the pixels of the same digits."""
    case = digits_case()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double().requires_grad_(False)
    return Case(LINEAR, net, case.points, case.eps)


def resnet2b_case() -> Case:
    """A robust CIFAR-10 network that others trained, on 64 test images."""
    some = next(cifar10(64).eval_batches(64))
    points = Batch(some.x.double(), some.y, some.index)
    return Case(
        "CIFAR-10, resnet2b", known("resnet2b").double(), points, {"Linf": "2/255", "L2": "0.25"}
    )


# -- PGD
# ------------------------------------------------------------------------------------------


class Recorded(nn.Module):
    """Keeps every batch the network is asked about."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.net(x)
        return logits


def foolbox_pgd(net: nn.Module, points: Batch, threat: Threat, start: Tensor) -> Tensor:
    """Its last point, (n, C, H, W)."""
    import eagerpy
    import foolbox

    attacks = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}
    attack = attacks[threat.norm](abs_stepsize=threat.eps / 4, steps=STEPS, random_start=True)
    attack.get_random_start = lambda x0, epsilon: eagerpy.astensor(start)
    wrapped = foolbox.PyTorchModel(net, bounds=(0, 1))
    last: Tensor = attack.run(
        wrapped, points.x, foolbox.criteria.Misclassification(points.y), epsilon=threat.eps
    )
    return last


def torchattacks_pgd(net: nn.Module, points: Batch, threat: Threat, start: Tensor) -> Tensor:
    """Its last point, (n, C, H, W); it always starts at the image itself."""
    import torchattacks

    options: dict[str, Any] = {
        "eps": threat.eps,
        "alpha": threat.eps / 4,
        "steps": STEPS,
        "random_start": False,
    }
    if threat.norm == "L2":  # its default of 1e-10 would shorten the steps at confident points
        last: Tensor = torchattacks.PGDL2(net, eps_for_division=1e-30, **options)(
            points.x, points.y
        )
    else:
        last = torchattacks.PGD(net, **options)(points.x, points.y)
    return last.detach()


PGD: dict[str, Callable[[nn.Module, Batch, Threat, Tensor], Tensor]] = {
    "foolbox": foolbox_pgd,
    "torchattacks": torchattacks_pgd,
}


def pgd_row(library: str, case: Case, norm: str) -> dict[str, Any]:
    """The same start, steps and step size. Theirs is read as ours reads its own path: the first
    point that fools counts, else the one of highest loss.
    """
    import abatis.system.timm_import  # noqa: F401  # both import it

    points, threat = case.points, Threat.parse(f"{norm}:{case.eps[norm]}")
    start = points.x.clone() if library == "torchattacks" else draw_start(points, threat, 0)
    ours, fooled = _ascend(case.net, points, threat, STEPS, cross_entropy, start.clone())
    recorded = Recorded(case.net).eval()
    last = PGD[library](recorded, points, threat, start)
    theirs, theirs_fooled = _best([*recorded.seen[:STEPS], last], case.net, points.y)
    return {
        "compared": f"PGD-{STEPS} {threat}",
        "library": f"{library} {version(library)}",
        "on": case.name,
        "points": len(points),
        "broken": int(fooled.sum()),
        "other verdicts": int((fooled != theirs_fooled).sum()),
        "difference": float((ours - theirs).abs().max()),
        "tolerance": 1e-12,
        "why": "rounding in float64",
    }


def _best(path: list[Tensor], net: nn.Module, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of STEPS + 1 points on each row's path: the first that fools, else that of highest loss, and
    who is fooled, (n,).
    """
    logits = torch.stack([net(point) for point in path])  # (STEPS + 1, n, K)
    wrong = logits.argmax(2) != y
    losses = torch.stack([F.cross_entropy(one, y, reduction="none") for one in logits])
    chosen = torch.where(wrong.any(0), wrong.int().argmax(0), losses.argmax(0))
    return torch.stack(path)[chosen, torch.arange(len(y))], wrong.any(0)


# -- DeepFool
# ------------------------------------------------------------------------------------------


class Rescaled(nn.Module):
    """The network on (u - shift) * scale, its logits times 1e6: DeepFool's path is the same in
    other units.
    """

    def __init__(self, net: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.net, self.scale, self.shift = net, scale, shift

    def forward(self, u: Tensor) -> Tensor:
        return 1e6 * self.net((u - self.shift) * self.scale)


def foolbox_deepfool(
    net: nn.Module, x: Tensor, predicted: Tensor, norm: str, overshoot: float
) -> Tensor:
    """Its perturbation, (n, C, H, W)."""
    import foolbox

    attacks = {"L2": foolbox.attacks.L2DeepFoolAttack, "Linf": foolbox.attacks.LinfDeepFoolAttack}
    wrapped = foolbox.PyTorchModel(Rescaled(net, 1 / STRETCH, 0).eval(), bounds=(-1e9, 1e9))
    found = attacks[norm](steps=50, overshoot=overshoot).run(
        wrapped, x * STRETCH, foolbox.criteria.Misclassification(predicted)
    )
    r: Tensor = found / STRETCH - x
    return r


def adv_lib_deepfool(
    net: nn.Module, x: Tensor, predicted: Tensor, norm: str, overshoot: float
) -> Tensor:
    """Its perturbation, (n, C, H, W)."""
    from adv_lib.attacks import df

    u = x / SQUEEZE + 0.375
    order = 2 if norm == "L2" else float("inf")
    found = df(
        Rescaled(net, SQUEEZE, 0.375), u, predicted, steps=50, overshoot=overshoot, norm=order
    )
    r: Tensor = (found - u) * SQUEEZE
    return r


DEEPFOOL = {"foolbox": foolbox_deepfool, "adv-lib": adv_lib_deepfool}


def deepfool_row(library: str, case: Case, norm: str, overshoot: float) -> dict[str, Any]:
    """The perturbations that leave the predicted class."""
    import abatis.system.timm_import  # noqa: F401

    x = case.points.x
    ours, reached = find_boundary(case.net, x, norm, steps=50, overshoot=overshoot)
    theirs = DEEPFOOL[library](case.net, x, case.net(x).argmax(1), norm, overshoot)
    if library == "adv-lib":
        tolerance, why = (
            1.2e-3,
            "it adds 1e-4 to the distance of each step, 4e-4 in our pixel values; at most three "
            "steps",
        )
    elif case.name == LINEAR:
        tolerance, why = 1e-7, "it adds 1e-4 to the distance of each step, 1e-8 in our pixel values"
    else:
        tolerance, why = (
            2 * overshoot * float(ours.abs().max()),
            "it linearises behind the overshoot, we before it",
        )
    return {
        "compared": f"DeepFool {norm}, overshoot {overshoot:g}",
        "library": f"{library} {version(library)}",
        "on": case.name,
        "points": len(x),
        "broken": int(reached.sum()),
        "mean length": float(size(ours, norm).mean()),
        "difference": float((ours - theirs).abs().max()),
        "tolerance": tolerance,
        "why": why,
    }


def library_rows() -> list[dict[str, Any]]:
    """Everything that is compared. adv-lib overshoots in every step, so only a small overshoot is
    the same for it.
    """
    linear, digits, resnet2b = linear_case(), digits_case(), resnet2b_case()
    rows = [
        pgd_row(library, case, norm)
        for case in (digits, resnet2b)
        for library in PGD
        for norm in ("Linf", "L2")
    ]
    for library, overshoot in (("foolbox", 0.02), ("foolbox", 1e-5), ("adv-lib", 1e-5)):
        rows += [
            deepfool_row(library, case, norm, overshoot)
            for case in (linear, digits)
            for norm in ("Linf", "L2")
        ]
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = (
        "compared",
        "with",
        "on",
        "points",
        "other verdicts",
        "largest difference of a pixel",
        "tolerance",
        "what remains",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [
            row["compared"],
            row["library"],
            row["on"],
            row["points"],
            row.get("other verdicts", "-"),
            f"{row['difference']:.1e}",
            f"{row['tolerance']:.1e}",
            row["why"],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Compare, write, print."""
    torch.set_num_threads(1)
    rows = library_rows()
    facts = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": str(torch.__version__),
        "abatis": version("abatis"),
    }
    RECORD.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
