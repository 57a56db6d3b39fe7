"""What everything around the ladder costs beside one call of the authors' package on the same
network and points.

    python -m benchmarks.diagnostics_cost digits     # ten minutes of one core
    python -m benchmarks.diagnostics_cost cifar10    # thrice as long; needs ABATIS_REFERENCE

The network is the adversarially trained ResNet-8 of benchmarks/autoattack_speed.py: as it is, and
behind a rounding of its images, where tests raise doubt and the searches run. What is compared is
``evaluate`` with the standard ladder, without the ladder itself: diagnostics, copy in another
process, margins and curve, in CPU seconds of all processes. Writes
benchmarks/results/diagnostics-cost-SETTING.json and .md.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.autoattack_speed import SETTINGS, Meter, Setting, package, trained
from benchmarks.record_files import list_versions
from benchmarks.side_by_side import facts
from torch import Tensor, nn

from abatis.data.arrays import ArraySplit
from abatis.data.info import Data, DataInfo
from abatis.evaluate import EvaluationRequest, evaluate, examination
from abatis.evaluate.ladder import run_ladder
from abatis.runs.own_run import describe_data

RESULTS = Path(__file__).parent / "results"
GOAL = 2.0
LEVELS = 16
CPU = torch.device("cpu")


class Rounded(nn.Module):
    """A network behind a rounding of its images, through which no gradient passes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        logits: Tensor = self.net((x * LEVELS).round() / LEVELS)
        return logits


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    setting = SETTINGS[asked.setting]
    net, points = trained(setting)
    request = make_request(setting, points)
    networks = {"as it is": net, "behind a rounding": Rounded(net)}
    rounds: list[dict[str, Any]] = []
    for seed in range(asked.rounds):
        rounds.append(measure_round(networks, net, request, seed))
        print(rounds[-1], flush=True)
        record = facts("abatis", "torch", "pyautoattack") | {
            "setting": f"A ResNet-8 that was trained adversarially, {len(points)} "
            f"{setting.words}, {setting.threat}.",
            "goal": GOAL,
            "rounds": rounds,
        }
        written = RESULTS / f"diagnostics-cost-{asked.setting}.json"
        written.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        written.with_suffix(".md").write_text(write_page(record), encoding="utf-8")


def make_request(setting: Setting, points: ArraySplit) -> EvaluationRequest:
    """The standard ladder, and the training images that the tests need."""
    x, y = setting.data()
    train = ArraySplit(x[: setting.trained], y[: setting.trained], "none")
    half = (0.5,) * x.shape[1]
    info = DataInfo(setting.words, int(y.max()) + 1, x.shape[1], x.shape[2], half, half, "none")
    training = describe_data(Data(info, train, None, points), setting.threat, CPU)
    return EvaluationRequest(
        points,
        setting.threat,
        "standard",
        0,
        len(points),
        CPU,
        info.num_classes,
        training=training,
    )


def measure_round(
    networks: dict[str, nn.Module], net: nn.Module, request: EvaluationRequest, seed: int
) -> dict[str, Any]:
    """The package and both evaluations, every other time in reverse order."""
    found: dict[str, Any] = {}
    names = ["package", *networks]
    for name in names[:: -1 if seed % 2 else 1]:
        if name == "package":
            began = count_seconds()
            package(net, request.points, request.threat, seed, Meter(net))  # type: ignore[arg-type]
            found[name] = round(count_seconds() - began, 1)
        else:
            found[name] = measure_evaluation(networks[name], request)
    return {name: found[name] for name in names}


def measure_evaluation(module: nn.Module, request: EvaluationRequest) -> dict[str, Any]:
    """CPU seconds of the ladder, and of everything else."""
    spent = [0.0]

    def timed(*given: Any) -> Any:
        began = count_seconds()
        result = run_ladder(*given)
        spent[0] += count_seconds() - began
        return result

    began = count_seconds()
    with patch.object(examination, "run_ladder", timed):
        result = evaluate(module, request)
    whole = count_seconds() - began
    return {
        "ladder": round(spent[0], 1),
        "rest": round(whole - spent[0], 1),
        "verdict": result.verdict,
        "standing": int(result.per_point["robust"].sum()),
        "searches": any(
            test.id == "D27" and test.status != "not applicable" for test in result.diagnosis.tests
        ),
    }


def count_seconds() -> float:
    """Return the processor time of this process, and of all others that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + used.ru_utime + used.ru_stime


def write_page(record: dict[str, Any]) -> str:
    """Markdown."""
    versions = list_versions(record)
    rounds = record["rounds"]
    theirs = statistics.median(one["package"] for one in rounds)
    lines = [
        "# What the diagnostics cost",
        "",
        f"{record['date']}, {record['machine']}, {record['threads']} thread(s), {versions}. "
        f"{record['setting']} CPU seconds of all processes, medians of {len(rounds)} rounds, in "
        "turn; a ratio is the median of those within the rounds. pyautoattack's standard version "
        f"on the network as it is takes {theirs:.1f} s; the goal is {record['goal']:g} times that "
        "at most for everything around the ladder.",
        "",
        "| network | verdict | points that stand | searches | our ladder, s | everything else, s "
        "| beside pyautoattack |",
        "|---" * 7 + "|",
    ]
    for name in [name for name in rounds[0] if name != "package"]:
        found = [one[name] for one in rounds]
        ladder, rest = (statistics.median(one[key] for one in found) for key in ("ladder", "rest"))
        ratio = statistics.median(one[name]["rest"] / one["package"] for one in rounds)
        cells = [
            name,
            found[0]["verdict"],
            str(found[0]["standing"]),
            "yes" if found[0]["searches"] else "no",
            f"{ladder:.1f}",
            f"{rest:.1f}",
            f"{ratio:.2f}, {'reached' if ratio <= record['goal'] else 'missed'}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
