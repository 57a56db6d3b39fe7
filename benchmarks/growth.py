"""How time and memory of one training step grow with everything that can be chosen, beside what the
formulas say.

    python -m benchmarks.growth                     # from the repository's root; some minutes
    python -m benchmarks.growth --axes processes    # only this axis again

Writes benchmarks/results/growth.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks import growth_page, growth_processes
from benchmarks.growth_methods import (
    METHODS,
    Method,
    Point,
    expected_bytes,
    expected_flop,
    variant_of,
)
from benchmarks.record_files import write_record
from benchmarks.side_by_side import Times, facts, measure, peak_bytes, ratio

RECORD = Path(__file__).parent / "results" / "growth.json"
ROUNDS, SHORTEST = 5, 0.1
FAULT = 1.25  # what grows faster than its formula by more is to be explained
AXES: dict[str, tuple[int, ...]] = {
    "batch": (16, 32, 64),
    "steps": (1, 5, 10),
    "width": (8, 16, 32),
    "classes": (10, 100, 1000),
    "size": (32, 64, 224),
}
PROCESSES = "processes"


def point(axis: str, value: int) -> Point:
    """One axis moves; large images come in twos, and processes share a large batch."""
    if axis == PROCESSES:
        return Point(batch=growth_processes.BATCH // value)
    return replace(Point(batch=2) if axis == "size" else Point(), **{axis: value})


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", nargs="+", choices=[*AXES, PROCESSES], default=[*AXES, PROCESSES])
    asked = parser.parse_args().axes
    torch.set_num_threads(1)
    old = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.exists() else []
    rows = [row for row in old if row["axis"] not in asked]
    axes = {axis: values for axis, values in AXES.items() if axis in asked}
    rows += [row for name, method in METHODS.items() if axes for row in in_turn(name, method, axes)]
    rows += shared() if PROCESSES in asked else []
    record = facts("abatis", "torch") | {
        "rounds": ROUNDS,
        "base": asdict(Point()),
        "shared_batch": growth_processes.BATCH,
        "fault": FAULT,
        "forwards": {name: method.forwards() for name, method in METHODS.items()},
        "rows": rows,
    }
    write_record(RECORD, record, growth_page.page(record))


def in_turn(name: str, method: Method, axes: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """One method along some axes; all its points are timed in turn."""
    points = {
        str(at): at
        for axis, values in axes.items()
        for at in (point(axis, value) for value in values)
    }
    steps = {key: variant_of(method, at) for key, at in points.items()}
    times, peaks = (
        measure(steps, ROUNDS, shortest=SHORTEST),
        {key: peak_bytes(step) for key, step in steps.items()},
    )
    print(name, flush=True)
    return [
        growth(name, axis, value, times, peaks) for axis, values in axes.items() for value in values
    ]


def shared() -> list[dict[str, Any]]:
    """Every method along the axis of the processes: the time of all of them together, the largest
    peak of one.
    """
    counts, found = growth_processes.COUNTS, growth_processes.measured(ROUNDS)
    times = {
        name: {str(point(PROCESSES, count)): found[count].times[name] for count in counts}
        for name in METHODS
    }
    peaks = {
        name: {str(point(PROCESSES, count)): found[count].peaks[name] for count in counts}
        for name in METHODS
    }
    return [
        growth(name, PROCESSES, count, times[name], peaks[name])
        for name in METHODS
        for count in counts
    ]


def growth(
    name: str, axis: str, value: int, times: Times, peaks: Mapping[str, int]
) -> dict[str, Any]:
    """Time and peak memory at one value of an axis relative to those at its first."""
    method, at, first = (
        METHODS[name],
        point(axis, value),
        point(axis, (AXES | {PROCESSES: (1,)})[axis][0]),
    )
    work = expected_flop(method, at) / expected_flop(method, first)
    return {
        "method": name,
        "axis": axis,
        "value": value,
        "batch": at.batch,
        "cpu_seconds": round(statistics.median(times[str(at)]), 4),
        "peak_bytes": peaks[str(at)],
        "time": round(ratio(times, str(at), str(first)), 3),
        "time_expected": round(work * value if axis == PROCESSES else work, 3),
        "memory": round(peaks[str(at)] / peaks[str(first)], 3),
        "memory_expected": round(expected_bytes(method, at) / expected_bytes(method, first), 3),
    }


if __name__ == "__main__":
    main()
