"""The table of all records, and of what is missing and why."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.records.bands import describe_place, list_bands
from benchmarks.records.settings import RECORDS, SCALES, SETTING

HERE = Path(__file__).parent
RESULTS, PAGE, NOT_RUN = HERE / "results", HERE / "README.md", HERE / "not_run.toml"
HEAD = (
    "# Records on CIFAR-10\n\n"
    "`python -m benchmarks.records NAME --scale full` makes one. Accuracies are shares of "
    "the first test images, in percent. AutoAttack is the standard one. Robust: what neither "
    "AutoAttack nor any other attack of ours broke. Training (with validation and "
    "checkpoints) and evaluation: seconds by the clock / of the processor. The files in "
    "`results/` hold configuration, versions, hardware and findings. This page is written by "
    "the same command.\n"
)
BAND_WORDS = (
    "What a record at full scale is held against, in percent. It is inside its band where its "
    "95 % interval and the band of the published numbers have a number in common. Two numbers of "
    "PGD-20: best and last checkpoint.\n"
)
COLUMNS = (
    "record",
    "seed",
    "epochs",
    "clean",
    "PGD-20",
    "AutoAttack",
    "robust",
    "points",
    "verdict",
    "training",
    "evaluation",
    "device",
    "date",
    "band",
)


def write(record: dict[str, Any], results: Path = RESULTS) -> Path:
    """Write a record under its date, scale and name; returns the file."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{record['date']}-{record['scale']}-{record['record']}.json"
    path.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    return path


def latest(results: Path = RESULTS) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest record by scale and name."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))
    ]
    return {(record["scale"], record["record"]): record for record in found}


def page(results: Path = RESULTS, reasons: Path = NOT_RUN) -> str:
    """Everything in Markdown."""
    known = latest(results)
    why = tomllib.loads(reasons.read_text(encoding="utf-8")) if reasons.is_file() else {}
    parts = [HEAD]
    for scale in SCALES:
        setting = json.dumps(SETTING[scale])
        rows = [row(known[scale, name]) for name in RECORDS if (scale, name) in known]
        parts.append(
            f"## {scale.capitalize()} scale\n\n"
            f"Setting, from which a record differs by its method: `{setting}`\n"
        )
        if rows:
            parts.append(
                "\n".join([f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *rows]) + "\n"
            )
        parts += [*notes(scale, known), *missing(scale, known, why.get(scale, {}))]
    parts += ["## Published numbers\n", BAND_WORDS, *list_bands(), ""]
    return "\n".join(parts)


def row(record: dict[str, Any]) -> str:
    """One line of the table."""
    if "failed" in record:
        return f"| {record['record']} | failed: {record['failed']} |{' |' * (len(COLUMNS) - 2)}"
    points = f"{record['points']:,} of {record['of']:,}" + (
        f" ({record['why_not_all']})" if record["why_not_all"] else ""
    )
    shares = [f"{100 * record[key]:.2f}" for key in ("clean_acc", "pgd20_acc", "autoattack_acc")]
    bound = record.get("robust_acc_upper")
    shares.append(
        f"{100 * record['robust_acc']:.2f}" if bound is None else f"at most {100 * bound:.2f}"
    )
    kinds = ("wall_seconds", "processor_seconds")
    seconds = (
        " / ".join(f"{record[kind][phase]:.0f}" for kind in kinds)
        for phase in ("training", "evaluation")
    )
    cells = (
        record["record"],
        record["config"]["seed"],
        record["epochs"],
        *shares,
        points,
        record["verdict"],
        *seconds,
        record["device"],
        record["date"],
        describe_place(record),
    )
    return f"| {' | '.join(map(str, cells))} |"


def notes(scale: str, known: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    """Speed records' targets, findings and what was noted, a line each."""
    for name in RECORDS:
        record = known.get((scale, name), {})
        if "reached" in record:
            seconds, target = record["wall_seconds"]["training"], 100 * record["target"]
            outcome = "reached" if record["reached"] else "not reached"
            yield f"* {name}: AutoAttack {target:.1f} {outcome} in {seconds:.1f} s"
        yield from (
            f"* {name}: {text}"
            for text in (*(record.get("findings") or ()), record.get("note"))
            if text
        )


def missing(
    scale: str, known: dict[tuple[str, str], dict[str, Any]], why: dict[str, str]
) -> Iterator[str]:
    """What did not run, and why."""
    absent = [name for name in RECORDS if (scale, name) not in known]
    if absent:
        yield f"\nNot run at {scale} scale:\n"
        reasons = {name: why.get(name, why.get("all", "not yet")) for name in absent}
        for reason in dict.fromkeys(reasons.values()):
            yield f"* {', '.join(name for name in absent if reasons[name] == reason)}: {reason}"
        yield ""
