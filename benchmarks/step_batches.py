"""Adversarial training steps beside MAIR's and Rade's loop, from one image to a full batch.

    python -m benchmarks.step_batches     # ten minutes; from the repository's root

Ours runs in the layout that a run chooses at its start. benchmarks/step_peers.py says where the
others are looked for. Writes benchmarks/results/step-batches.json and .md.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from benchmarks.plain_loops import STEPS
from benchmarks.record_files import list_versions, write_record
from benchmarks.side_by_side import facts, measure, ratio
from benchmarks.step import RESULTS
from benchmarks.step_page import table
from benchmarks.step_peers import list_peer_versions
from benchmarks.step_variants import (
    METHODS,
    Action,
    Subject,
    make_steps,
    our_step,
    peer_step,
    subject,
)

from abatis.nets.layout import CHANNELS_LAST, CONTIGUOUS
from abatis.nets.layout_timing import choose_layout
from abatis.nets.net import Net

ROUNDS = {
    "resnet8": {1: 7, 2: 7, 8: 7, 32: 5, 128: 3},
    "resnet18": {1: 5, 2: 5, 8: 3, 32: 2},
    "wrn28": {1: 3, 2: 3, 8: 2},
}
"""By backbone and batch size."""
LEFT_OUT = "resnet18 at 128, wrn28 at 32 and 128: a round takes minutes"
PEERS = ("at: MAIR", "at: Rade's loop")
VARIANTS = {CHANNELS_LAST: "float32", CONTIGUOUS: "folded, contiguous"}
OURS = "ours"
INTRODUCTION = (
    "PGD-10 adversarial training in float32, CPU time of our step relative to the other's: "
    "interleaved in one process, one thread, the median of the ratios within each round. "
    "Ours runs in the layout that `--layout auto` chooses."
)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    record = facts("abatis", "torch", "torchattacks")
    record |= measure_all({name: ROUNDS[name] for name in asked.backbones})
    record["versions"] |= list_peer_versions()
    write_record(RESULTS / "step-batches.json", record, make_page(record))


def measure_all(rounds: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    """The record: a row a backbone and batch size, and which of the others are absent."""
    rows, absent = [], {}
    for backbone, batches in rounds.items():
        for batch, count in batches.items():
            row, missing = measure_row(backbone, batch, count)
            print(row, flush=True)
            rows.append(row)
            absent |= missing
    slower = [
        f"{row['backbone']} at {row['batch']}, {name}"
        for row in rows
        for name, value in row["ratios"].items()
        if value > 1
    ]
    return {"left_out": LEFT_OUT, "absent": absent, "rows": rows, "slower": slower}


def measure_row(backbone: str, batch: int, rounds: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Ratios of our step to each of the others, and why others are absent."""
    of = subject(backbone, batch, updates=2)
    layout = chosen_layout(of)
    makers: dict[str, Callable[[Subject], Action]] = {
        OURS: partial(our_step, METHODS["at"], variant=VARIANTS[layout])
    }
    makers |= {name: partial(peer_step, name) for name in PEERS}
    steps, absent = make_steps(makers, of)
    times = measure(steps, rounds)
    row = {
        "backbone": backbone,
        "batch": batch,
        "rounds": rounds,
        "layout": layout,
        "ratios": {name: round(ratio(times, OURS, name), 3) for name in times if name != OURS},
        "cpu_seconds": times,
    }
    return row, absent


def chosen_layout(of: Subject) -> str:
    """The layout that a run with this network and batch size chooses."""
    net = Net(copy.deepcopy(of.module))
    net.tune(torch.rand(2, *of.x.shape[1:]))
    choose_layout(net, of.x, STEPS)
    return net.layout


def make_page(record: Mapping[str, Any]) -> str:
    """Markdown."""
    slower = "; ".join(record["slower"]) or "none"
    parts = [
        "# Training steps by batch size",
        f"{record['date']}; {record['machine']}; threads {record['threads']}; "
        f"{list_versions(record)}.",
        INTRODUCTION,
        *(f"Not compared: {name} ({why})." for name, why in record["absent"].items()),
        f"Not measured: {record['left_out']}.",
        f"Goal: nowhere slower than another. Slower: {slower}.",
        table(("backbone", "batch", "rounds", "layout", *PEERS), list_rows(record["rows"])),
    ]
    return "\n\n".join(parts) + "\n"


def list_rows(rows: Iterable[Mapping[str, Any]]) -> Iterable[list[object]]:
    """A line a backbone and batch size."""
    for row in rows:
        shown = [f"{row['ratios'][name]:.3f}" if name in row["ratios"] else "" for name in PEERS]
        yield [row["backbone"], row["batch"], row["rounds"], row["layout"], *shown]


if __name__ == "__main__":
    main()
