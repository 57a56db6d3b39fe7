"""The memory that ``--forecast`` says a step takes, beside what the process really takes.

    python -m benchmarks.forecast     # from the repository's root; some minutes
    python -m benchmarks.forecast cnn # these networks' rows only; the others stay in the record

Six networks, four plugins. Each pair is forecast; then its network is built and makes two steps.
Measured is the most that torch's allocator held meanwhile, weights and moments included, and what
oneDNN takes for its copies. Writes benchmarks/results/forecast.json and .md.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.side_by_side import Variant, facts, peak_bytes

from abatis.api.batch import Batch
from abatis.api.randomness import untouched
from abatis.config.run_config import RunConfig
from abatis.runs.fake_step import count_step
from abatis.runs.open_data import describe_run_data
from abatis.runs.prepare import prepare
from abatis.train.optimizer import make_optimizer
from abatis.train.step import Step
from abatis.train.step_setup import StepSetup

RECORD = Path(__file__).parent / "results" / "forecast.json"
NETWORKS = {
    "cnn": 64,
    "resnet8": 64,
    "resnet18": 8,
    "preactresnet18": 8,
    "convnext_atto": 32,
    "vit_tiny_patch16_224": 32,
}
"""Networks, and images in a batch."""
PLUGINS = ("trades", "mart", "awp", "emr")
CPU = torch.device("cpu")
MIB = 2**20


def make_config(backbone: str, plugin: str) -> RunConfig:
    """A run with one attack step: more need no more memory."""
    return RunConfig(
        backbone=backbone,
        plugin=(plugin,),
        batch_size=NETWORKS[backbone],
        data="cifar10",
        device="cpu",
        attack={"steps": 1},
    )


def step_twice(backbone: str, plugin: str) -> None:
    """Build the network, and make two steps; the first one makes the optimizer's moments."""
    config = make_config(backbone, plugin)
    info = describe_run_data(config)
    prepared = prepare(config, info, CPU, None)
    net = prepared.net
    net.train()
    setup = StepSetup(net, prepared.plan, config.threat_model, prepared.random)
    step = Step(setup, make_optimizer(config.optim, net.module))
    x = torch.rand(config.batch_size, info.channels, info.image_size, info.image_size)
    labels = torch.arange(config.batch_size)
    batch = Batch(x, labels % info.num_classes, labels)
    for number in (1, 2):
        step(batch, number, config.epochs - 1, 0.5)


def forecast(backbone: str, plugin: str) -> int:
    """Bytes that the forecast says."""
    config = make_config(backbone, plugin)
    info = describe_run_data(config)
    return count_step(config, info, prepare(config, info, CPU, None).net, 2).memory


def make_page(record: dict[str, Any]) -> str:
    """The record as a page."""
    rows = [
        f"| {row['network']} | {row['batch']} | {row['plugin']} | {row['forecast']} |"
        f" {row['measured']} | {row['error']:+.1%} | {row['seconds']} |"
        for row in record["rows"]
    ]
    made = record["facts"]
    return "\n".join(
        [
            "# The memory that is forecast, and the memory that is taken",
            "",
            f"{made['date']}; {made['machine']}. MiB of a training step on the CPU, weights and"
            " moments included.",
            "Measured is the most that torch's allocator held; the copies of oneDNN are in it.",
            "The last column has the CPU seconds of the forecast and of building its network.",
            f"Measured: {len(rows)} of {len(NETWORKS) * len(PLUGINS)} pairs.",
            f"Within 10 %: {record['within 10 %']} of {len(rows)}.",
            "",
            "| network | batch | plugin | forecast | measured | error of the forecast | s |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def compare(backbone: str, plugin: str) -> dict[str, Any]:
    """Forecast and measure a pair: its row of the record."""
    with untouched():
        began = time.process_time()
        said = forecast(backbone, plugin)
        seconds = time.process_time() - began
        call = partial(step_twice, backbone, plugin)
        measured = peak_bytes(Variant(call, lambda: None))
    return {
        "network": backbone,
        "batch": NETWORKS[backbone],
        "plugin": plugin,
        "forecast": round(said / MIB, 1),
        "measured": round(measured / MIB, 1),
        "error": round(said / measured - 1, 4),
        "seconds": round(seconds, 1),
    }


def write(rows: list[dict[str, Any]]) -> None:
    """Write the record, in the order of networks and plugins."""
    order = [(backbone, plugin) for backbone in NETWORKS for plugin in PLUGINS]
    rows.sort(key=lambda row: order.index((row["network"], row["plugin"])))
    within = sum(abs(row["error"]) <= 0.1 for row in rows)
    record = {"facts": facts("abatis", "torch"), "within 10 %": within, "rows": rows}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    RECORD.with_suffix(".md").write_text(make_page(record), encoding="utf-8")


def main() -> None:
    """Forecast and measure every pair; the record is written after each."""
    asked = sys.argv[1:] or list(NETWORKS)
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    rows = [row for row in rows if row["network"] not in asked]
    for backbone in asked:
        for plugin in PLUGINS:
            rows.append(compare(backbone, plugin))
            print(rows[-1], flush=True)
            write(rows)


if __name__ == "__main__":
    main()
