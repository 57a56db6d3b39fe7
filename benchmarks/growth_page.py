"""The record of growth.py as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.record_files import list_versions

HEADS = {
    "batch": "Batch",
    "steps": "Attack steps",
    "width": "Width",
    "classes": "Classes",
    "size": "Image size",
    "processes": "Processes",
}


def page(record: Mapping[str, Any]) -> str:
    """One table an axis."""
    versions = list_versions(record)
    base = ", ".join(f"{name} {value}" for name, value in record["base"].items())
    beside = [
        f"{row['method']} at {row['axis']} {row['value']}"
        for row in record["rows"]
        if beside_at(row, record)
    ]
    faults = [
        row
        for row in record["rows"]
        if any(fault(row, what, record) for what in ("time", "memory"))
    ]
    text = (
        f"# How cost grows\n\n{record['date']}, {record['machine']}, {record['threads']} "
        f"thread(s), {versions}.\n\n"
        "One training step of a ResNet-8 in float32; F is a forward pass of the batch, S the "
        "attack steps. One axis moves, the "
        f"rest is: {base}; images of every size come in twos. Cells: measured / expected, relative "
        "to the first value of the "
        f"axis. Time: CPU seconds, all points of a method in turn, median over {record['rounds']} "
        "rounds of the ratio within "
        "each; expected from the forwards of the method and the floating-point operations of each "
        "forward. Memory: the most "
        "that torch's allocator held during a step beyond what it held before (torch.profiler, "
        "without the scratch memory of "
        "kernels); expected from what a forward keeps for its gradient. Bold: more than "
        f"{record['fault']} times the expected growth, {len(faults)} of {len(record['rows'])} "
        "rows.\n\n"
        "A small step is dominated by calls, which hides growth; so each method is also held "
        "against `at`, whose calls are as "
        f"many. Faster than `at` by more than {record['fault']} times what the formulas say: "
        f"{', '.join(beside) or 'none'}.\n\n"
        f"Processes share a batch of {record['shared_batch']}: the time is that of all together, "
        "each with its own calls, the "
        "memory that of the one with most.\n"
    )
    return text + "".join(table(axis, record) for axis in HEADS)


def table(axis: str, record: Mapping[str, Any]) -> str:
    """Methods down, values across."""
    rows = [row for row in record["rows"] if row["axis"] == axis]
    first, *values = dict.fromkeys(row["value"] for row in rows)
    found = {(row["method"], row["value"]): row for row in rows}
    head = [f"{what} at {value}" for what in ("time", "memory") for value in values]
    lines = [f"| method | F | {' | '.join(head)} |", f"|{'---|' * (len(head) + 2)}"]
    for method, forwards in record["forwards"].items():
        cells = [
            cell(found[method, value], what, record)
            for what in ("time", "memory")
            for value in values
        ]
        lines.append(f"| {method} | {forwards} | {' | '.join(cells)} |")
    return f"\n## {HEADS[axis]}, from {first}\n\n" + "\n".join(lines) + "\n"


def cell(row: Mapping[str, Any], what: str, record: Mapping[str, Any]) -> str:
    """Measured / expected, bold where it is a fault."""
    shown = f"{row[what]:.2f} / {row[f'{what}_expected']:.2f}"
    return f"**{shown}**" if fault(row, what, record) else shown


def fault(row: Mapping[str, Any], what: str, record: Mapping[str, Any]) -> bool:
    """Does it grow faster than its formula?"""
    return bool(row[what] > record["fault"] * row[f"{what}_expected"])


def beside_at(row: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Does its time grow faster than that of plain adversarial training, the difference of their
    formulas allowed for?
    """
    alike = (
        other
        for other in record["rows"]
        if (other["axis"], other["value"]) == (row["axis"], row["value"])
    )
    at = next(other for other in alike if other["method"] == "at")
    return bool(
        row["time"] / at["time"] > record["fault"] * row["time_expected"] / at["time_expected"]
    )
