"""The record of benchmarks/step.py as a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.record_files import list_versions

INTRODUCTION = (
    "Interleaved in one process, CPU time of one thread, the median of the ratios within "
    "each round. Plain loop: written from the\npaper's algorithm with the passes that "
    "published code makes (benchmarks/plain_loops.py). Bare passes: ten forward and\n"
    "input-gradient passes and one clean update, nothing else. The difference is the largest "
    "one of a parameter after one step in\nfloat64 from the same start, absolute, ours as it "
    "is timed. Units: floating-point operations in forward passes of the batch."
)
TRAIN = (
    '"train" is the attack with batch statistics. The plain loop of emr then also moves the '
    "running statistics in its attack, as\npublished, and its penalty reads them; ours does "
    "not move them, which is the whole of that difference."
)
MAIR = (
    "MAIR's TRADES makes the clean forward pass of its loss, which moves the running statistics, "
    "before its attack, which reads them:\nthe whole of that difference."
)
MEMORY = (
    "Peak memory: the most that torch's allocator held beyond what it held before the step, "
    "seen by torch.profiler."
)


def page(record: Mapping[str, Any]) -> str:
    """Markdown."""
    versions = list_versions(record)
    parts = [
        f"# Training steps on {record['backbone']}, batch {record['batch']}",
        f"{record['date']}; {record['machine']}; threads {record['threads']}; "
        f"rounds {record['rounds']}; {versions}.",
        INTRODUCTION,
        *(f"Not compared: {name} ({why})." for name, why in record["absent"].items()),
        "## Goals",
        MEMORY,
        table(("goal", "at most", "measured", "met", "by operations"), goal_rows(record["goals"])),
        "## Beside the plain loops",
        table(
            (
                "method",
                "step",
                "time / plain loop",
                "units",
                "of the plain loop",
                "difference, eval",
                "train",
            ),
            loop_rows(record),
        ),
        TRAIN,
        "## Beside other libraries",
        table(
            ("other", "step", "time / other", "difference of the other to the plain loop"),
            other_rows(record),
        ),
        *([MAIR] if "trades: MAIR" in record["against_others"] else []),
        *layouts(record["over_contiguous"]),
        "## The machine",
        table(("kernel", "GFLOP per CPU second"), record["peaks"].items()),
        "By the operations they need, the steps of adversarial training reach of the float32 "
        "matrix product timed with them:",
        table(
            ("step", "share"),
            [(name, f"{share:.2f}") for name, share in record["of_matmul_peak"].items()],
        ),
        *missed(record["goals"]),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def goal_rows(goals: Iterable[Mapping[str, Any]]) -> Iterable[Sequence[object]]:
    """Name, limit, measured, verdict, and what the operations alone would give."""
    for row in goals:
        yield (
            row["goal"],
            row["limit"],
            f"{row['measured']:.3f}",
            "yes" if row["met"] else "**no**",
            row.get("by_operations", ""),
        )


def loop_rows(record: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    """One a method and step of ours."""
    for name, found in record["against_plain_loop"].items():
        differences = [f"{found['difference'][mode]:.1e}" for mode in ("eval", "train")]
        work = record["units"][f"{name}: plain loop"]
        for variant, value in found["ratios"].items():
            yield (
                name,
                variant,
                f"{value:.3f}",
                record["units"][f"{name}: {variant}"],
                work,
                *differences,
            )
            differences = ["", ""]


def other_rows(record: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    """One for each of the others and each step of ours."""
    for name, found in record["against_others"].items():
        shown = f"{found['difference']['eval']:.1e}" if "difference" in found else ""
        for variant, value in found["ratios"].items():
            yield name, variant, f"{value:.3f}", shown


def layouts(ratios: Mapping[str, Mapping[str, float]]) -> Iterable[str]:
    """What the layout and folding do for each method."""
    if ratios:
        rows = [
            (name, f"{found['without folding']:.3f}", f"{found['float32']:.3f}")
            for name, found in ratios.items()
        ]
        head = ("method", "channels_last / contiguous", "and folded / contiguous")
        yield from (
            "## Layout",
            "The time of our step relative to that in contiguous memory without folding.",
            table(head, rows),
        )


def missed(goals: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Where the time goes in the steps that miss their goal."""
    rows = [
        (
            row["goal"],
            ", ".join(
                f"{name.removeprefix('aten::')} {share:.0%}"
                for name, share in row["busiest"].items()
            ),
        )
        for row in goals
        if "busiest" in row
    ]
    return (
        [
            "## Where the time goes where a goal is missed",
            table(("goal", "share of the step's time"), rows),
        ]
        if rows
        else []
    )
