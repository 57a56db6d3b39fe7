"""What AutoAttack costs through our evaluation, beside one call of the authors' package on the same
network and points.

    python -m benchmarks.autoattack_speed digits     # ten minutes of one core
    python -m benchmarks.autoattack_speed cifar10    # twice as long; needs ABATIS_REFERENCE
    python -m benchmarks.autoattack_speed resnet2b   # five minutes; needs ABATIS_REFERENCE
    python -m benchmarks.autoattack_speed resnet18   # hours; needs ABATIS_REFERENCE

``--points`` and ``--rounds`` make it shorter. The network is an adversarially trained ResNet-8, a
small ReLU network with certified robustness, or the ResNet-18 of pyautoattack's examples; the
package gets it as it is. Writes benchmarks/results/autoattack-speed-SETTING.json and .md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import torch
import torch.nn.functional as F
from benchmarks.known_networks import known, not_robust
from benchmarks.methods import REFERENCE
from benchmarks.record_files import list_versions, write_record
from benchmarks.side_by_side import Variant, busiest, facts
from sklearn.datasets import load_digits
from torch import Tensor, nn

import abatis
from abatis.api.threat import Threat
from abatis.data.arrays import ArraySplit
from abatis.evaluate.autoattack import NAMES, Version, run_autoattack
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from abatis.evaluate.pgd import cross_entropy, differentiate

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5


@dataclass(frozen=True)
class Setting:
    """What is attacked: so many of the first points that a network was not trained on.

    Attributes:
        words: what the points are.
        threat: of the attacks.
        points: how many.
        data: images and labels; the points come behind those to train on.
        trained: images to train on.
        epochs: of training.
        network: that is ready, else a ResNet-8 is trained.
        goals: the ratios to reach, by stage; those of a ResNet-8.
        of: what it is.
    """

    words: str
    threat: Threat
    points: int
    data: Callable[[], tuple[Tensor, Tensor]]
    trained: int = 0
    epochs: int = 0
    network: Callable[[], nn.Module] | None = None
    goals: Mapping[str, float] = field(default_factory=lambda: {"APGD": 0.48, "all": 0.5})
    of: str = "A ResNet-8 that was trained adversarially"


def digits() -> tuple[Tensor, Tensor]:
    """(1797, 1, 16, 16) in [0, 1], and the labels."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    return F.interpolate(x, size=16, mode="bilinear").clamp(0, 1), torch.tensor(labels)


def cifar10() -> tuple[Tensor, Tensor]:
    """(n, 3, 32, 32) in [0, 1], and the labels; the training images come first."""
    found = np.load(REFERENCE / "data" / "cifar10_small.npz")
    x = np.concatenate([found["x_train"][:TRAINED], found["x_test"]])
    y = np.concatenate([found["y_train"][:TRAINED], found["y_test"]])
    return torch.tensor(x).permute(0, 3, 1, 2).contiguous() / 255, torch.tensor(y).long()


TRAINED = 2000
SETTINGS = {
    "digits": Setting(
        "digits of 16 x 16 pixels", Threat.parse("Linf:0.12"), 48, digits, 1400, epochs=15
    ),
    "cifar10": Setting(
        "CIFAR-10 images", Threat.parse("Linf:4/255"), 60, cifar10, TRAINED, epochs=10
    ),
    "resnet2b": Setting(
        "CIFAR-10 images",
        Threat.parse("Linf:2/255"),
        24,
        cifar10,
        TRAINED,
        network=partial(known, "resnet2b"),
        goals={"all": 0.6},
        of="resnet2b, a small ReLU network trained for certified robustness",
    ),
    "resnet18": Setting(
        "CIFAR-10 images",
        Threat.parse("Linf:1/510"),
        4,
        cifar10,
        TRAINED,
        network=not_robust,
        goals={"all": 0.6},
        of="The ResNet-18 of pyautoattack's examples, trained on clean images",
    ),
}
APGD, STAGES = ("APGD-CE", "APGD-T"), ("APGD-CE", "APGD-T", "FAB-T", "Square")
FAST = "Square, bf16"
Costs = dict[str, tuple[float, int]]
"""By stage: CPU seconds, and images that the network was run on."""


def trained(setting: Setting) -> tuple[nn.Module, ArraySplit]:
    """The network, as ``abatis.load`` gives it, and the points to attack."""
    x, y = setting.data()
    first, last = slice(setting.trained), slice(setting.trained, setting.trained + setting.points)
    if setting.network is not None:
        return setting.network(), ArraySplit(x[last], y[last], "none")
    with tempfile.TemporaryDirectory() as folder:
        config = abatis.RunConfig(
            backbone="cifar_resnet8",
            threat=str(setting.threat),
            epochs=setting.epochs,
            eval="none",
            out=Path(folder),
        )
        result = abatis.run(config, data=((x[first], y[first]), (x[last], y[last])))
        return abatis.load(result.folder), ArraySplit(x[last], y[last], "none")


class Meter:
    """Counts the images that a network is run on, and reads CPU time with them."""

    def __init__(self, net: nn.Module) -> None:
        self.images, self.costs = 0, Costs()
        net.register_forward_pre_hook(self._count)

    def _count(self, net: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.images += len(arguments[0])

    def start(self) -> tuple[float, int]:
        return time.process_time(), self.images

    def stop(self, name: str, began: tuple[float, int]) -> None:
        self.costs[name] = time.process_time() - began[0], self.images - began[1]


def package(net: nn.Module, points: ArraySplit, threat: Threat, seed: int, meter: Meter) -> Tensor:
    """One call of the package: which points it leaves, (n,) bool."""
    foreign = pyautoattack.AutoAttack(
        net, norm=threat.norm, eps=threat.eps, seed=seed, version="standard"
    )
    foreign.verbose = False

    def metered(name: str, perturb: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, y: Tensor) -> Tensor:
            began = meter.start()
            adversarial = perturb(x, y)
            meter.stop(name, began)
            return adversarial

        return call

    attacks = (foreign.apgd, foreign.apgd_targeted, foreign.fab, foreign.square)
    for name, attack in zip(STAGES, attacks, strict=True):
        attack.perturb = metered(name, attack.perturb)
    batch = next(points.eval_batches(len(points)))
    began = meter.start()
    _, predicted = foreign.run_standard_evaluation(batch.x, batch.y, batch_size=len(points))
    meter.stop("all", began)
    return predicted == batch.y


def ours(
    net: nn.Module,
    points: ArraySplit,
    threat: Threat,
    seed: int,
    meter: Meter,
    memory: FinishedAttacks,
    version: Version = "standard",
) -> Tensor:
    """The same through our evaluation, from the clean look on; only attacks that ``memory`` does
    not know are run.
    """
    began: dict[str, tuple[float, int]] = {}

    def progress(label: str, done: int, total: int) -> None:
        key = label.rpartition(" ")[2]
        name = FAST if version == "fast" else NAMES.get(key, key)
        if done == 0:
            began[name] = meter.start()
        elif name in began:
            meter.stop(name, began[name])

    whole = meter.start()
    with isolate(net) as judged:
        judge = Judge(judged, points, threat, len(points), progress)
        clean = judge.classify_clean()
        judge.tune()
        found = run_autoattack(judge, clean, seed, torch.device("cpu"), memory, version)
    if version == "standard":
        meter.stop("all", whole)
    return found.verdicts[-1].robust


def one_round(net: nn.Module, points: ArraySplit, threat: Threat, seed: int) -> dict[str, Any]:
    """Costs of both, and verdicts: those of the package, ours, and ours with Square in bfloat16;
    (n,) bool.
    """
    meters = {"package": Meter(net), "ours": Meter(net)}
    with tempfile.TemporaryDirectory() as folder:
        memory = FinishedAttacks(Path(folder) / "state.json", {})
        calls: dict[str, Callable[[], Tensor]] = {
            "package": lambda: package(net, points, threat, seed, meters["package"]),
            "ours": lambda: ours(net, points, threat, seed, meters["ours"], memory),
        }
        verdicts = {name: calls[name]() for name in list(calls)[:: -1 if seed % 2 else 1]}
        verdicts["fast"] = ours(net, points, threat, seed, meters["ours"], memory, "fast")
    costs = {name: meter.costs for name, meter in meters.items()}
    for found in costs.values():
        seconds, images = zip(*(found[stage] for stage in APGD), strict=True)
        found["APGD"] = sum(seconds), sum(images)
    print(
        f"seed {seed}: { ({name: round(found['all'][0], 1) for name, found in costs.items()}) } "
        "CPU s",
        flush=True,
    )
    return {"costs": costs, "verdicts": verdicts}


def row(rounds: list[dict[str, Any]], stage: str, goals: Mapping[str, float]) -> dict[str, Any]:
    """Medians over the rounds; a ratio is taken within its round."""
    theirs = [one["costs"]["package"]["Square" if stage == FAST else stage] for one in rounds]
    found = [one["costs"]["ours"][stage] for one in rounds]
    ratios = [new[0] / old[0] for new, old in zip(found, theirs, strict=True)]
    return {
        "stage": stage,
        "package_seconds": round(statistics.median(cost[0] for cost in theirs), 2),
        "seconds": round(statistics.median(cost[0] for cost in found), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(one, 3) for one in ratios],
        "goal": goals.get(stage),
        "package_images": int(statistics.median(cost[1] for cost in theirs)),
        "images": int(statistics.median(cost[1] for cost in found)),
    }


def of_a_gradient(net: nn.Module, points: ArraySplit, threat: Threat) -> dict[str, float]:
    """Shares of the operations, in gradients at all points, as our attacks take them."""
    batch = next(points.eval_batches(len(points)))
    with isolate(net) as judged:
        Judge(judged, points, threat, len(points)).tune()

        def gradient() -> None:
            differentiate(judged, batch.x, batch.y, cross_entropy)

        with judged.attack_mode():
            return busiest(Variant(gradient, lambda: None), calls=20, count=4)


def differing(rounds: list[dict[str, Any]], one: str, other: str) -> list[dict[str, int]]:
    """Points with another verdict, and the seed of the round."""
    return [
        {
            "seed": seed,
            "point": point,
            one: int(found["verdicts"][one][point]),
            other: int(found["verdicts"][other][point]),
        }
        for seed, found in enumerate(rounds)
        for point in (found["verdicts"][one] != found["verdicts"][other])
        .nonzero()
        .flatten()
        .tolist()
    ]


def page(record: dict[str, Any]) -> str:
    """Markdown."""
    versions = list_versions(record)
    lines = [
        "# AutoAttack's cost",
        "",
        f"{record['date']}, {record['machine']}, {record['threads']} thread(s), {versions}. "
        f"{record['setting']} {record.get('note', '')}CPU seconds, "
        f"medians of {record['rounds']} rounds in one process, in turn; a ratio is the median of "
        "those within the rounds.",
        "",
        "| stage | pyautoattack, s | ours, s | ratio | goal | its images | ours | ms an image, its "
        "| ours |",
        "|---" * 9 + "|",
    ]
    for one in record["rows"]:
        goal = (
            "-"
            if one["goal"] is None
            else f"{one['goal']:.2f}, {'reached' if one['ratio'] <= one['goal'] else 'missed'}"
        )
        each = [1000 * one[f"{who}seconds"] / one[f"{who}images"] for who in ("package_", "")]
        lines.append(
            f"| {one['stage']} | {one['package_seconds']} | {one['seconds']} | {one['ratio']:.2f} "
            f"| {goal} | "
            f"{one['package_images']:,} | {one['images']:,} | {each[0]:.3f} | {each[1]:.3f} |"
        )
    robust = ", ".join("/".join(map(str, counts.values())) for counts in record["robust"])
    asked = len(record["robust"]) * record["points"]
    return "\n".join(
        [
            *lines,
            "",
            "Images: how many the network was run on, forwards with and without a gradient alike. "
            f"Of {asked} verdicts "
            f"{len(record['differing'])} differ from pyautoattack's, and with Square in bfloat16 "
            f"{len(record['differing_bf16'])} "
            f"from ours. Robust points by seed (pyautoattack/ours/bf16): {robust}.",
            "",
            "Where our time goes, in a gradient of all points at once (torch.profiler): "
            + ", ".join(f"{name} {100 * share:.0f} %" for name, share in record["gradient"].items())
            + ".",
            "",
        ]
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--points", type=int)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--note", default="", help="what else ran on the machine; a sentence")
    asked = parser.parse_args()
    name, setting = asked.setting, SETTINGS[asked.setting]
    if asked.points:
        setting = replace(setting, points=asked.points)
    torch.set_num_threads(1)
    net, points = trained(setting)
    rounds = [one_round(net, points, setting.threat, seed) for seed in range(asked.rounds)]
    record = facts("abatis", "torch", "pyautoattack") | {
        "setting": f"{setting.of}, {setting.points} {setting.words}, {setting.threat}, "
        "AutoAttack standard.",
        "note": f"{asked.note} " if asked.note else "",
        "points": setting.points,
        "rounds": asked.rounds,
        "rows": [row(rounds, stage, setting.goals) for stage in (*STAGES, "APGD", "all", FAST)],
        "robust": [
            {who: int(flags.sum()) for who, flags in one["verdicts"].items()} for one in rounds
        ],
        "differing": differing(rounds, "package", "ours"),
        "differing_bf16": differing(rounds, "ours", "fast"),
        "gradient": of_a_gradient(net, points, setting.threat),
    }
    written = RESULTS / f"autoattack-speed-{name}.json"
    write_record(written, record, page(record))


if __name__ == "__main__":
    main()
