"""What a training step costs beside plain loops, other libraries and the bare passes, and whether
it makes the same update.

    python -m benchmarks.step resnet8     # batch 64; from the repository's root
    python -m benchmarks.step resnet18    # batch 32, half an hour: methods that have a plain loop

Other libraries are compared where benchmarks/step_peers.py finds them. Writes
benchmarks/results/step-BACKBONE.json and .md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks import step_page
from benchmarks.record_files import write_record
from benchmarks.side_by_side import (
    Times,
    Variant,
    busiest,
    facts,
    machine_peaks,
    measure,
    peak_bytes,
    ratio,
)
from benchmarks.step_peers import PEERS, list_peer_versions
from benchmarks.step_variants import (
    BOTH,
    METHODS,
    PRODUCT,
    SIDE,
    Subject,
    all_variants,
    difference,
    forward_flop,
    layouts,
    peer_difference,
    subject,
    units,
)

RESULTS = Path(__file__).parent / "results"
SETTINGS: dict[str, dict[str, Any]] = {
    "resnet8": {"batch": 64, "rounds": 7},
    "resnet18": {"batch": 32, "rounds": 5, "brief": True},
}
PACKAGES = ("abatis", "torch", "numpy", "torchattacks", "adversarial-robustness-toolbox")
MEMORY_LIMIT = 1.05
FEW_IMAGES = 8  # in float64
OTHERS = ("at: bare passes", *PEERS)


@dataclass(frozen=True)
class Goal:
    """The time of ``over`` relative to that of ``under`` is at most ``limit``; with ``extra``, what
    it has more is.
    """

    what: str
    over: str
    under: str
    limit: float
    extra: bool = False


AGAINST_LOOPS = {
    "at": (0.45, 0.28),
    "trades": (0.47, 0.29),
    "mart": (0.72, 0.50),
    "awp": (0.50, 0.33),
}
AT = "at: float32"
ADDED = {"emr": 0.35, "at + average-margin": 0.02, "sovr": 0.02, "at + amm": 0.90}
ONE, ALL = "jacobian, one projection: float32", "jacobian, all classes: float32"
GOALS = [
    *(
        Goal(f"{name}, {variant} / plain loop", f"{name}: {variant}", f"{name}: plain loop", limit)
        for name, limits in AGAINST_LOOPS.items()
        for variant, limit in zip(BOTH, limits, strict=True)
    ),
    Goal("at, without folding / bare passes", "at: without folding", "at: bare passes", 1.03),
    *(
        Goal(f"{name}, added to at", f"{name}: float32", AT, limit, extra=True)
        for name, limit in ADDED.items()
    ),
    Goal("jacobian, one projection / all classes", ONE, ALL, 0.15),
]
BESIDE_PEERS = {
    "resnet8": {"at: MAIR": 0.58, "at: Rade's loop": 0.58, "trades: MAIR": 0.65},
    "resnet18": {"at: MAIR": 0.85},
}


def main() -> None:
    """Measure, check, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbone", choices=SETTINGS)
    parser.add_argument("--rounds", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked_rounds = {} if asked.rounds is None else {"rounds": asked.rounds}
    record = facts(*PACKAGES)
    record |= measured(asked.backbone, **SETTINGS[asked.backbone] | asked_rounds)
    record["versions"] |= list_peer_versions()
    path = RESULTS / f"step-{asked.backbone}.json"
    write_record(path, record, step_page.page(record))


def measured(backbone: str, batch: int, rounds: int, brief: bool = False) -> dict[str, Any]:
    """The record of one network."""
    of = subject(backbone, batch)
    steps, absent = all_variants(of)
    if brief:
        steps = {
            name: step for name, step in steps.items() if f"{group_of(name)}: plain loop" in steps
        }
    times = {
        group: measure(members, rounds, warm_up=not brief)
        for group, members in grouped(steps).items()
    }
    work, forward = units(subject(backbone, batch, image_size=8)), forward_flop(of)
    loops = [name for name in times if f"{name}: plain loop" in steps]
    goals = [
        reached(goal, times, steps, work)
        for goal in goals_of(backbone)
        if {goal.over, goal.under} <= steps.keys()
    ]
    if not brief:
        goals += [memory_reached(name, steps) for name in loops]
    chosen = (
        {}
        if brief
        else {name: layout_ratios(measure(layouts(METHODS[name], of), rounds)) for name in METHODS}
    )
    return {
        "backbone": backbone,
        "batch": batch,
        "rounds": rounds,
        "absent": absent,
        "peaks": machine_peaks(),
        "goals": goals,
        "over_contiguous": chosen,
        "against_plain_loop": {name: against_loop(name, times[name], of) for name in loops},
        "against_others": {
            name: against_other(name, times[group_of(name)], of) for name in OTHERS if name in steps
        },
        "of_matmul_peak": of_peak(
            times["at"], {name: units * forward for name, units in work.items()}
        ),
        "units": {name: value for name, value in work.items() if name in steps},
        "cpu_seconds": times,
    }


def goals_of(backbone: str) -> list[Goal]:
    """Its goals, those beside other libraries too."""
    return GOALS + [
        Goal(peer.replace(": ", ", float32 / "), f"{group_of(peer)}: float32", peer, limit)
        for peer, limit in BESIDE_PEERS[backbone].items()
    ]


def layout_ratios(times: Times) -> dict[str, float]:
    """The step as it is, and without folding, relative to neither folding nor channels_last."""
    return {name: ratio(times, name, "contiguous") for name in times if name != "contiguous"}


def group_of(step: str) -> str:
    """The steps that are timed in turn: those of a method."""
    return step.partition(":")[0].partition(",")[0]


def grouped(steps: Mapping[str, Variant]) -> dict[str, dict[str, Variant]]:
    """The steps by group; what adds to adversarial training is timed beside it."""
    groups: dict[str, dict[str, Variant]] = {}
    for name, step in steps.items():
        shared = {AT: steps[AT]} if group_of(name) in ADDED else {}
        groups.setdefault(group_of(name), shared)[name] = step
    return groups


def against_loop(name: str, times: Times, of: Subject) -> dict[str, Any]:
    """Ratios to the plain loop, and the differences after one step in float64 with either
    batch-norm mode of the attack.
    """
    method, small = METHODS[name], of.double(FEW_IMAGES)
    ratios = {
        variant: ratio(times, f"{name}: {variant}", f"{name}: plain loop")
        for variant in method.variants
    }
    return {
        "ratios": ratios,
        "difference": {
            mode: difference(method, small, mode == "train") for mode in ("eval", "train")
        },
    }


def against_other(name: str, times: Times, of: Subject) -> dict[str, Any]:
    """Ratios of our step to it; the difference of its update to the plain loop's where it can be
    made.
    """
    method = group_of(name)
    ratios = {
        variant: ratio(times, f"{method}: {variant}", name) for variant in METHODS[method].variants
    }
    found = peer_difference(name, of.double(FEW_IMAGES)) if name in PEERS else None
    return {"ratios": ratios} | ({} if found is None else {"difference": {"eval": found}})


def of_peak(times: Times, work: Mapping[str, float]) -> dict[str, float]:
    """Work for the time of each step relative to that of the matrix product, all in float32."""
    return {
        name: ratio(times, PRODUCT, name) * work[name] / (2 * SIDE**3)
        for name in times
        if name != PRODUCT
    }


def reached(
    goal: Goal, times: Mapping[str, Times], steps: Mapping[str, Variant], work: Mapping[str, float]
) -> dict[str, Any]:
    """What was measured for a goal, the same by operations, and where the time goes when it is
    missed.
    """
    value = ratio(times[group_of(goal.over)], goal.over, goal.under) - goal.extra
    counted = work[goal.over] / work[goal.under] - goal.extra
    row = {
        "goal": goal.what,
        "limit": goal.limit,
        "measured": round(value, 3),
        "met": value <= goal.limit,
        "by_operations": round(counted, 3),
    }
    return row if row["met"] else row | {"busiest": busiest(steps[goal.over])}


def memory_reached(name: str, steps: Mapping[str, Variant]) -> dict[str, Any]:
    """The same for the peak memory of a step."""
    value = peak_bytes(steps[f"{name}: float32"]) / peak_bytes(steps[f"{name}: plain loop"])
    what = f"{name}, peak memory of float32 / plain loop"
    return {
        "goal": what,
        "limit": MEMORY_LIMIT,
        "measured": round(value, 3),
        "met": value <= MEMORY_LIMIT,
    }


if __name__ == "__main__":
    main()
