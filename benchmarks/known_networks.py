"""Our verdicts on networks that others trained, beside the numbers documented for them.

    python -m benchmarks.known_networks            # a few minutes: all but the long one
    python -m benchmarks.known_networks --long     # AutoAttack on 300 images: over an hour

Needs the reference data: ABATIS_REFERENCE, or the folder ``shared`` beside the checkout. Writes
benchmarks/results/known-networks.json and prints it as the table of docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abatis.api.threat import Threat
from abatis.data.arrays import ArraySplit
from abatis.evaluate.autoattack import AutoAttackResult, run_autoattack
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge, Points
from abatis.evaluate.pgd import Objective, cross_entropy, make_pgd, margin
from abatis.nets.backbones.from_file import load_factory

RECORD = Path(__file__).parent / "results" / "known-networks.json"
REFERENCE = Path(os.environ.get("ABATIS_REFERENCE", Path(__file__).resolve().parents[2] / "shared"))
DOCUMENTED = {
    "resnet2b": 0.5482,
    "resnet4b": 0.6141,
    "trades_mnist": 0.9281,
    "pyautoattack's example": 0.0,
}
LONG = 300


def _test_images(file: str, index: Tensor) -> ArraySplit:
    with np.load(REFERENCE / "data" / file) as arrays:
        x, y = torch.from_numpy(arrays["x_test"]), torch.from_numpy(arrays["y_test"])
    return ArraySplit(x.permute(0, 3, 1, 2).contiguous(), y, "none", index)


def cifar10(n: int) -> ArraySplit:
    """The first n test images."""
    return _test_images("cifar10_small.npz", torch.arange(n))


def mnist(n: int) -> ArraySplit:
    """n test images, drawn once for all n."""
    return _test_images(
        "mnist.npz", torch.randperm(10_000, generator=torch.Generator().manual_seed(0))[:n]
    )


def known(name: str) -> nn.Module:
    """A network in eval mode with frozen parameters."""
    return load_factory(
        f"{REFERENCE / 'data' / 'checkpoints' / 'models.py'}:{name}", 10
    ).requires_grad_(False)


def not_robust() -> nn.Module:
    """The ResNet-18 that pyautoattack ships as an example, trained on clean images."""
    package = importlib.util.find_spec("pyautoattack")
    assert package is not None
    assert package.submodule_search_locations is not None
    examples = Path(package.submodule_search_locations[0]) / "examples"
    net = load_factory(f"{examples / 'resnet.py'}:ResNet18", 10)
    net.load_state_dict(
        torch.load(examples / "model_test.pt", map_location="cpu", weights_only=True)
    )
    return net.eval().requires_grad_(False)


def under_pgd(
    net: nn.Module, points: Points, threat: str, objective: Objective, steps: int, restarts: int
) -> tuple[int, int]:
    """How many are right as they are, and after PGD."""
    at = Threat.parse(threat)
    with isolate(net) as judged:
        judge = Judge(judged, points, at, 250)
        clean = judge.classify_clean().correct
        judge.tune()
        robust = judge.run_attack(
            "PGD", make_pgd(judged, at, steps, 0, objective, range(restarts)), clean
        ).robust
    return int(clean.sum()), int(robust.sum())


def under_autoattack(net: nn.Module, points: Points, threat: str) -> tuple[int, AutoAttackResult]:
    """How many are right as they are, and what the standard version left."""
    with isolate(net) as judged:
        judge = Judge(judged, points, Threat.parse(threat), 100)
        clean = judge.classify_clean()
        judge.tune()
        found = run_autoattack(judge, clean, 0, torch.device("cpu"), FinishedAttacks())
    return int(clean.correct.sum()), found


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _row(
    network: str,
    threat: str,
    attack: str,
    points: Points,
    counts: tuple[int, int],
    began: tuple[float, float],
) -> dict[str, Any]:
    seconds, processor = (round(now - then) for now, then in zip(_clocks(), began, strict=True))
    return {
        "network": network,
        "threat": threat,
        "attack": attack,
        "points": len(points),
        "clean": counts[0],
        "robust": counts[1],
        "accuracy": counts[1] / len(points),
        "documented": DOCUMENTED[network],
        "seconds": seconds,
        "processor_seconds": processor,
    }


def pgd_rows() -> Iterator[dict[str, Any]]:
    """PGD on the two CIFAR-10 networks and on the one that is not robust."""
    points = cifar10(1000)
    for network in ("resnet2b", "resnet4b"):
        for name, objective, steps, restarts in (
            ("PGD-20", cross_entropy, 20, 1),
            ("margin PGD-40 x 4", margin, 40, 4),
        ):
            began = _clocks()
            counts = under_pgd(known(network), points, "Linf:2/255", objective, steps, restarts)
            yield _row(network, "Linf:2/255", name, points, counts, began)
    points, began = cifar10(64), _clocks()
    counts = under_pgd(not_robust(), points, "Linf:8/255", cross_entropy, 20, 1)
    yield _row("pyautoattack's example", "Linf:8/255", "PGD-20", points, counts, began)


def long_rows() -> Iterator[dict[str, Any]]:
    """AutoAttack on the MNIST network."""
    points, began = mnist(LONG), _clocks()
    clean, found = under_autoattack(known("trades_mnist"), points, "Linf:0.3")
    after = {verdict.name: int(verdict.robust.sum()) for verdict in found.verdicts}
    row = _row(
        "trades_mnist", "Linf:0.3", "AutoAttack", points, (clean, min(after.values())), began
    )
    yield {
        **row,
        "after each attack": after,
        "settings": dict(found.settings),
        "findings": list(found.findings),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| network | threat | attack | points | clean | ours | documented |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = (row["clean"] / row["points"], row["accuracy"], row["documented"])
        cells = [
            row["network"],
            row["threat"],
            row["attack"],
            f"{row['points']:,}",
            *(f"{100 * one:.2f} %" for one in shares),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Judge, write, print; the other part of the record is kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--long", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    new = list(long_rows() if asked.long else pgd_rows())
    before = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.exists() else []
    named = {(row["network"], row["attack"]) for row in new}
    rows = sorted(
        [*new, *(row for row in before if (row["network"], row["attack"]) not in named)],
        key=lambda row: list(DOCUMENTED).index(row["network"]),
    )
    facts = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "seed": 0,
        "threads": 1,
        "versions": {name: version(name) for name in ("abatis", "torch", "pyautoattack")},
    }
    RECORD.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
