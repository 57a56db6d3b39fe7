"""How often each diagnostic test speaks of honest networks, and of broken defences.

    python -m benchmarks.calibrate_verdict            # what the record lacks
    python -m benchmarks.calibrate_verdict --rates    # the rates alone, from the records

The networks are those of benchmarks/results/broken-defences.json; the honest ones once more with
weights of other seeds; and, where the reference data are there (see benchmarks/known_networks.py),
published robust networks; all by the standard ladder. Writes
benchmarks/results/calibration.json and calibration.md. A test holds the limits in
abatis.evaluate.masking.record against this record.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.broken_defences import evaluate, judge
from benchmarks.known_networks import REFERENCE
from tests.evaluate.defences.table import BROKEN, HONEST_ONES

from abatis.evaluate.masking.record import GATES
from abatis.report.intervals import wilson_interval

RESULTS = Path(__file__).parent / "results"
RECORD, PAGE = RESULTS / "calibration.json", RESULTS / "calibration.md"
PROOF = RESULTS / "broken-defences.json"
SEEDS = (1, 2)
PUBLISHED = {
    "resnet2b": ("cifar10_small.npz", "Linf:2/255"),
    "resnet4b": ("cifar10_small.npz", "Linf:2/255"),
    "trades_mnist": ("mnist.npz", "Linf:0.3"),
}
"""Robust networks that others trained: their data and threat."""
PUBLISHED_POINTS = 96
KINDS = {"honest": [*HONEST_ONES, *PUBLISHED], "broken": [*BROKEN]}


def main() -> None:
    """Judge, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", action="store_true")
    asked = parser.parse_args()
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    proof = json.loads(PROOF.read_text(encoding="utf-8"))["toys"]
    rows = {f"{name} 0": row for name, row in proof.items()}
    rows |= {key: row for key, row in known.get("networks", {}).items() if key not in rows}
    for name, seed in [] if asked.rates else list_networks():
        key = f"{name} {seed}"
        if key not in rows:
            rows[key] = judge_one(name, seed)
            print(key, rows[key]["verdict"], rows[key]["seconds"], flush=True)
            keep(rows)
    keep(rows)
    PAGE.write_text(write_page(rows), encoding="utf-8")


def list_networks() -> Iterator[tuple[str, int]]:
    """Yield names and seeds of what the proof does not judge."""
    for seed in SEEDS:
        yield from ((name, seed) for name in HONEST_ONES)
    if (REFERENCE / "data" / "checkpoints").is_dir():
        yield from ((name, 0) for name in PUBLISHED)


def judge_one(name: str, seed: int) -> dict[str, Any]:
    """Judge a network; return its row."""
    if name not in PUBLISHED:
        return judge(name, seed, "standard")
    file, threat = PUBLISHED[name]
    model = f"{REFERENCE / 'data' / 'checkpoints' / 'models.py'}:{name}"
    data = f"npz:{REFERENCE / 'data' / file}"
    return evaluate(model, data, threat, "standard", PUBLISHED_POINTS)


def keep(rows: dict[str, Any]) -> None:
    """Write the record, networks one a line."""
    facts = {
        "gates": {test: [gate.warn, gate.fail] for test, gate in GATES.items()},
        "rates": {test: measure(test, rows) for test in GATES},
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items()]
    head = json.dumps(facts, indent=1).removesuffix("\n}")
    RECORD.write_text(
        head + ',\n "networks": {\n' + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8"
    )


def measure(test: str, rows: dict[str, Any]) -> dict[str, Any]:
    """Return a test's rates of false alarm and of detection, and its statistic's distribution."""
    found: dict[str, Any] = {}
    for kind, names in KINDS.items():
        facts = [
            row["tests"][test]
            for key, row in rows.items()
            if key.split()[0] in names and test in row.get("tests", {})
        ]
        facts = [one for one in facts if one[0] != "not applicable"]
        values = sorted(one[1] for one in facts if one[1] is not None)
        found[kind] = {
            "networks": len(facts),
            "spoke": count(facts, ("warn", "fail")),
            "failed": count(facts, ("fail",)),
            "quantiles": [values[round(q * (len(values) - 1))] for q in (0, 0.5, 0.95, 1)]
            if values
            else None,
        }
    return found


def count(facts: list[list[Any]], statuses: tuple[str, ...]) -> dict[str, Any]:
    """Return how many networks got one of the statuses, and the 95 % interval of the share."""
    number = sum(one[0] in statuses for one in facts)
    interval = wilson_interval(number, len(facts)) if facts else (0.0, 1.0)
    return {"count": number, "interval": [round(end, 4) for end in interval]}


def write_page(rows: dict[str, Any]) -> str:
    """Return the rates in Markdown."""
    lines = [
        "# How often each test speaks",
        "",
        summarise(rows),
        "",
        "Statistic: median, 95 % quantile and maximum over honest networks. Rates with 95 % "
        "Wilson intervals over networks.",
        "",
        "| test | honest: warned or failed | honest: failed | broken: warned or failed | "
        "broken: failed | honest statistic | limits |",
        "|---|---|---|---|---|---|---|",
    ]
    for test, gate in GATES.items():
        facts = measure(test, rows)
        shares = [
            show_share(facts[kind][which], facts[kind]["networks"])
            for kind in ("honest", "broken")
            for which in ("spoke", "failed")
        ]
        values = facts["honest"]["quantiles"]
        told = "-" if values is None else ", ".join(f"{one:.3g}" for one in values[1:])
        limits = " / ".join("-" if one is None else str(one) for one in (gate.warn, gate.fail))
        lines.append(f"| {test} {gate.name} | {' | '.join(shares)} | {told} | {limits} |")
    return "\n".join(lines) + "\n"


def show_share(facts: dict[str, Any], of: int) -> str:
    """Return a count, and its interval in percent."""
    if not of:
        return "-"
    low, high = (100 * end for end in facts["interval"])
    return f"{facts['count']} of {of} ({low:.0f} to {high:.0f} %)"


def summarise(rows: dict[str, Any]) -> str:
    """Return the verdicts' counts."""
    told = []
    for kind, names in (
        ("honest networks", [*HONEST_ONES, *PUBLISHED]),
        ("broken defences", BROKEN),
    ):
        verdicts = [row["verdict"] for key, row in rows.items() if key.split()[0] in names]
        counts = {one: verdicts.count(one) for one in ("PASS", "UNDECIDED", "WARN", "FAIL", None)}
        parts = [f"{number} {one or 'no report'}" for one, number in counts.items() if number]
        told.append(f"{len(verdicts)} {kind}: {', '.join(parts)}.")
    judged = {tuple(key.split()) for key in rows}
    waiting = [key for key in list_all() if key not in judged]
    if waiting:
        told.append(
            f"Not judged yet: {len(waiting)} of {len(list_all())} (names and seeds of weights): "
            f"{', '.join(' '.join(key) for key in waiting)}."
        )
    return " ".join(told)


def list_all() -> list[tuple[str, str]]:
    """Names and seeds of all networks, of the proof and of this script."""
    names = [(name, "0") for name in (*BROKEN, *HONEST_ONES, *PUBLISHED)]
    return names + [(name, str(seed)) for seed in SEEDS for name in HONEST_ONES]


if __name__ == "__main__":
    main()
