"""What the random draws of a training step cost beside the step, and what memory they take.

    python -m benchmarks.draws     # from the repository's root; a few minutes

Interleaved in one process: a step of adversarial training (ResNet-8, PGD-10, batch 64), its uniform
start, a normal one, the draws of crops and flips, and torch.rand of as many numbers. Writes
benchmarks/results/draws.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.side_by_side import Variant, facts, measure, peak_bytes, ratio
from benchmarks.step_variants import METHODS, our_step, subject

from abatis.api.randomness import Randomness
from abatis.data.augment import draw

RECORD = Path(__file__).parent / "results" / "draws.json"
BACKBONE, BATCH, ROUNDS = "resnet8", 64, 7
STEP = "step"


def make_variants() -> dict[str, Variant]:
    """The step and its draws; nothing needs to be put back."""
    of, random = subject(BACKBONE, BATCH), Randomness(0)
    calls: dict[str, Callable[[], Any]] = {
        STEP: our_step(METHODS["at"], of),
        "uniform": lambda: random.uniform("attack/uniform", of.x),
        "normal": lambda: random.normal("attack/normal", of.x),
        "crops and flips": lambda: draw(slice(0, BATCH), 4, 0, 0),
        "torch.rand": lambda: torch.rand(of.x.shape),
    }
    return {name: Variant(call, lambda: None) for name, call in calls.items()}


def main() -> None:
    """Measure, and write the record."""
    torch.set_num_threads(1)
    variants = make_variants()
    times = measure(variants, ROUNDS)
    numbers = 4 * subject(BACKBONE, BATCH).x.numel()  # bytes of the drawn tensor
    found = {
        name: {
            "share of a step": round(ratio(times, name, STEP), 5),
            "milliseconds": round(1000 * sorted(times[name])[ROUNDS // 2], 3),
        }
        for name in variants
    }
    for name in ("uniform", "normal"):
        found[name]["peak bytes / bytes drawn"] = round(peak_bytes(variants[name]) / numbers, 2)
    record = {
        "backbone": BACKBONE,
        "batch": BATCH,
        "rounds": ROUNDS,
        "facts": facts("abatis", "torch"),
        "found": found,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
