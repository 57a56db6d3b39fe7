"""The memory that ``--forecast`` says a step takes, beside what the process really takes.

    python -m benchmarks.forecast     # from the repository's root, on Linux; some minutes

Six networks, four plugins. Each pair is forecast, and then makes two steps in a process of its own;
measured is by how much its resident memory grew at most since before the network was built. Writes
benchmarks/results/forecast.json and .md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.side_by_side import facts

from abatis.api.randomness import untouched
from abatis.config.run_config import RunConfig
from abatis.nets.backbones import build
from abatis.runs.fake_step import count_step
from abatis.runs.open_data import describe_run_data
from abatis.runs.prepare import prepare
from abatis.testing import tiny_batch
from abatis.train.optimizer import make_optimizer
from abatis.train.step import Step
from abatis.train.step_setup import StepSetup

RECORD = Path(__file__).parent / "results" / "forecast.json"
NETWORKS = {
    "cnn": 256,
    "resnet8": 128,
    "resnet18": 16,
    "preactresnet18": 16,
    "convnext_atto": 256,
    "vit_tiny_patch16_224": 256,
}
"""Networks, and images in a batch."""
PLUGINS = ("trades", "mart", "awp", "emr")
CPU = torch.device("cpu")
MIB = 2**20
# blocks of 64 KiB and more go back to the system at once, so that no gaps are measured
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


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


def read_memory(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if name in line)


def measure(backbone: str, plugin: str, answers: Any) -> None:
    """Make two steps, and send by how many bytes memory grew."""
    config = make_config(backbone, plugin)
    info = describe_run_data(config)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = read_memory("VmRSS")
    prepared = prepare(config, info, CPU, None)
    net = prepared.net
    net.train()
    setup = StepSetup(net, prepared.plan, config.threat_model, prepared.random)
    step = Step(setup, make_optimizer(config.optim, net.module))
    batch = tiny_batch(config.batch_size, info.num_classes)
    x = torch.rand(len(batch), info.channels, info.image_size, info.image_size)
    batch = type(batch)(x, batch.y, batch.index)
    for number in (1, 2):
        step(batch, number, config.epochs - 1, 0.5)
    answers.put(read_memory("VmHWM") - before)


def forecast(backbone: str, plugin: str) -> int:
    """Bytes that the forecast says."""
    config = make_config(backbone, plugin)
    info = describe_run_data(config)
    return count_step(config, info, prepare(config, info, CPU, None).net, 2).memory


def start_libraries() -> None:
    """Let convolutions and their gradients load what they load once a process."""
    module = build(
        "resnet8", num_classes=10, channels=3, image_size=32, mean=[0.5] * 3, std=[0.2] * 3
    )
    module(torch.rand(2, 3, 32, 32)).sum().backward()


def run_apart(backbone: str, plugin: str) -> int:
    """Bytes that a process of its own has grown by."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=measure, args=(backbone, plugin, answers))
    process.start()
    grown: int = answers.get(timeout=1200)
    process.join()
    return grown


def make_page(record: dict[str, Any]) -> str:
    """The record as a page."""
    rows = [
        f"| {row['network']} | {row['batch']} | {row['plugin']} | {row['forecast']} |"
        f" {row['measured']} | {row['error']:+.1%} |"
        for row in record["rows"]
    ]
    made = record["facts"]
    return "\n".join(
        [
            "# The memory that is forecast, and the memory that is taken",
            "",
            f"{made['date']}; {made['machine']}. MiB of a training step on the CPU, weights and"
            " moments included. Measured is the growth of the process.",
            f"Within 10 %: {record['within 10 %']} of {len(rows)}.",
            "",
            "| network | batch | plugin | forecast | measured | error of the forecast |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Forecast and measure every pair; write the record."""
    if any(os.environ.get(name) != value for name, value in ALLOCATION.items()):
        words = [sys.executable, "-m", "benchmarks.forecast", *sys.argv[1:]]
        os.execve(sys.executable, words, {**os.environ, **ALLOCATION})
    start_libraries()
    rows = []
    for backbone in NETWORKS:
        for plugin in PLUGINS:
            with untouched():
                measured, said = run_apart(backbone, plugin), forecast(backbone, plugin)
            rows.append(
                {
                    "network": backbone,
                    "batch": NETWORKS[backbone],
                    "plugin": plugin,
                    "forecast": round(said / MIB, 1),
                    "measured": round(measured / MIB, 1),
                    "error": round(said / measured - 1, 4),
                }
            )
            print(rows[-1], flush=True)
    within = sum(abs(row["error"]) <= 0.1 for row in rows)
    record = {"facts": facts("abatis", "torch"), "within 10 %": within, "rows": rows}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    RECORD.with_suffix(".md").write_text(make_page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
