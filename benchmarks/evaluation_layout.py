"""Whether an evaluation should choose the layout of tensors inside the network by the number of
points that it asks at once.

    python -m benchmarks.evaluation_layout    # some minutes of one core

Passes are those of attacks: eval mode, norms folded, gradients of the images only, or none. Writes
benchmarks/results/evaluation-layout.json and .md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.record_files import list_versions, write_record
from benchmarks.side_by_side import Times, Variant, facts, measure, ratio
from torch import Tensor, nn

from abatis.api.threat import Threat
from abatis.data.arrays import ArraySplit
from abatis.evaluate.autoattack import run_autoattack
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Clean, Judge
from abatis.evaluate.pgd import cross_entropy, differentiate, make_pgd
from abatis.nets.backbones import build
from abatis.nets.layout import CHANNELS_LAST, CONTIGUOUS
from abatis.nets.net import Net

RESULTS = Path(__file__).parent / "results"
NETWORKS = {"resnet8": 32, "resnet18": 32, "mobilenetv3_small_100": 64}
"""By name, the side of the images in pixels."""
COUNTS = (2, 8)
POINTS = 8
PASSES = 5
"""In an attack of one kind of passes, which folds its norms once."""
SHORT = 0.05  # CPU seconds that a measurement takes at least
EPS = {"resnet8": "Linf:12/255", "resnet18": "Linf:1/2550"}
"""Threats of whole attacks on untrained networks, at which some of the points stand."""


def make(name: str) -> nn.Module:
    """An untrained network of ten classes; speed does not depend on its weights."""
    torch.manual_seed(0)
    channels = (0.5, 0.5, 0.5)
    module = build(
        name,
        num_classes=10,
        channels=3,
        image_size=NETWORKS[name],
        mean=channels,
        std=channels,
    )
    return module.eval()


def draw(net: nn.Module, name: str, count: int) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W), and the network's own answers (B,) as their labels."""
    side = NETWORKS[name]
    x = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, net(x).argmax(1)


def compare(net: Net, call: Callable[[], Any], rounds: int, warm_up: bool = True) -> Times:
    """CPU seconds of a call in both layouts."""

    def choose(layout: str) -> None:
        net.use_layout(layout, step=False)
        if warm_up:  # as in an attack, whose first pass copies the kernels
            call()

    variants = {
        layout: Variant(call, partial(choose, layout)) for layout in (CHANNELS_LAST, CONTIGUOUS)
    }
    return measure(variants, rounds, warm_up, SHORT)


def measure_passes(name: str, rounds: int) -> list[dict[str, Any]]:
    """Ratios of a gradient and of a query, by the number of images at once."""
    module, rows = make(name), []
    with isolate(module) as net:
        layout = net.tune(draw(module, name, 8)[0], step=False)["layout"]
        for count in COUNTS if layout == CHANNELS_LAST else ():
            x, y = draw(module, name, count)

            def gradient(x: Tensor = x, y: Tensor = y) -> None:
                with net.attack_mode():
                    for _ in range(PASSES):
                        differentiate(net, x, y, cross_entropy)

            @torch.no_grad()
            def query(x: Tensor = x) -> None:
                with net.attack_mode():
                    for _ in range(PASSES):
                        net(x)

            row: dict[str, Any] = {"network": name, "images": count}
            for key, call in (("gradient", gradient), ("query", query)):
                times = compare(net, call, rounds)
                row[key] = round(ratio(times, CHANNELS_LAST, CONTIGUOUS), 3)
                row[f"{key}_ms"] = round(1000 / PASSES * min(times[CHANNELS_LAST]), 2)
            print(row, flush=True)
            rows.append(row)
    return rows


def measure_whole(name: str, rounds: int) -> dict[str, Any]:
    """AutoAttack on a ResNet-8; on a ResNet-18, where that takes an hour, PGD-20."""
    module = make(name)
    x, y = draw(module, name, POINTS)
    points, threat = ArraySplit(x, y, "none"), Threat.parse(EPS[name])
    standing = {}
    with isolate(module) as net:
        judge = Judge(net, points, threat, POINTS)
        clean = judge.classify_clean()
        judge.tune()

        def attack() -> None:
            run = attack_whole if name == "resnet8" else attack_briefly
            standing[net.layout] = run(judge, clean)

        times = compare(net, attack, rounds, warm_up=False)
    row = {
        "network": name,
        "attacks": "AutoAttack" if name == "resnet8" else "PGD-20",
        "ratio": round(ratio(times, CHANNELS_LAST, CONTIGUOUS), 3),
        "seconds": {layout: [round(one, 2) for one in found] for layout, found in times.items()},
        "robust": {layout: int(flags.sum()) for layout, flags in standing.items()},
        "differing": int((standing[CHANNELS_LAST] != standing[CONTIGUOUS]).sum()),
    }
    print(row, flush=True)
    return row


def attack_whole(judge: Judge, clean: Clean) -> Tensor:
    """Which points stand, (n,) bool."""
    found = run_autoattack(judge, clean, 0, torch.device("cpu"), FinishedAttacks())
    return found.verdicts[-1].robust


def attack_briefly(judge: Judge, clean: Clean) -> Tensor:
    """Which points stand, (n,) bool."""
    attack = make_pgd(judge.net, judge.threat, 20, 0)
    return judge.run_attack("PGD-20", attack, clean.correct).robust


def write_page(record: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# The layout of an evaluation",
        "",
        f"{record['date']}, {record['machine']}, {record['threads']} thread(s), "
        f"{list_versions(record)}. CPU seconds in channels_last over those in "
        f"contiguous memory: medians of {record['rounds']} rounds in one process, in turn. "
        "Above 1, contiguous memory is faster. Other work ran on the machine.",
        "",
        "| network | images at once | gradient of the images | query | ms in channels_last |",
        "|---" * 5 + "|",
    ]
    for row in record["passes"]:
        lines.append(
            f"| {row['network']} | {row['images']} | {row['gradient']:.2f} | {row['query']:.2f} "
            f"| {row['gradient_ms']}, {row['query_ms']} |"
        )
    if record["whole"]:
        lines += write_whole(record)
    return "\n".join([*lines, ""])


def write_whole(record: dict[str, Any]) -> list[str]:
    """The lines of whole attacks."""
    lines = [
        "",
        f"Whole attacks on {record['points']} points; some break on the way, so that fewer are "
        "asked at once:",
        "",
        "| network | attacks | ratio | robust, of both layouts | verdicts that differ |",
        "|---" * 5 + "|",
    ]
    for row in record["whole"]:
        robust = ", ".join(map(str, row["robust"].values()))
        lines.append(
            f"| {row['network']} | {row['attacks']} | {row['ratio']:.2f} | {robust} "
            f"| {row['differing']} |"
        )
    return lines


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-passes", action="store_true", help="no whole attacks")
    asked = parser.parse_args()
    rounds = asked.rounds
    torch.set_num_threads(1)
    record = facts("abatis", "torch", "timm") | {
        "rounds": rounds,
        "points": POINTS,
        "passes": [row for name in NETWORKS for row in measure_passes(name, rounds)],
        "whole": [measure_whole(name, rounds) for name in ([] if asked.only_passes else EPS)],
    }
    write_record(RESULTS / "evaluation-layout.json", record, write_page(record))


if __name__ == "__main__":
    main()
