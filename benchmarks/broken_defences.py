"""The verdict and the headline on small versions of broken defences, and on honest networks.

    python -m benchmarks.broken_defences              # every toy that the record lacks
    python -m benchmarks.broken_defences decoy cnn    # these, anew
    python -m benchmarks.broken_defences --page       # the page alone, from the record

Each toy of tests/evaluate/defences is judged by ``defense eval FILE:FACTORY`` with the standard
ladder, in a process of its own, on one thread; its true robust accuracy is the one that
tests/evaluate/defences/find_truth.py found. Writes benchmarks/results/broken-defences.json after
every toy, then broken-defences.md and the same tables in docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.evaluate.defences.cheats import forget
from tests.evaluate.defences.nets import EPS, read_images
from tests.evaluate.defences.table import TOYS, Entry, get_toy

import abatis.commands.eval.judge_model  # noqa: F401  # what every process would load
from abatis.cli import main as main_of_defense
from abatis.system.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
RECORD, PAGE = RESULTS / "broken-defences.json", RESULTS / "broken-defences.md"
DOCS = ROOT / "docs" / "evaluation.md"
BEGIN, END = "<!-- begin: benchmarks.broken_defences -->", "<!-- end -->"
JUDGED = ROOT / "tests" / "evaluate" / "defences" / "judged.py"
TRUTH = ROOT / "tests" / "evaluate" / "defences" / "truth.json"
FORKED = multiprocessing.get_context("fork")
NEAR = 0.03
"""How far the headline may stand from the truth."""

MISSED: dict[str, str] = {
    "odds": "PGD-20 leaves five points of it and the ladder two, so that nothing is hidden from "
    "the attacks, no test speaks, and the headline is below the truth",
    "asymmetric": "PGD-20 breaks it like any other network, so that no test speaks, and the "
    "headline is within a point of the truth",
}
"""Why some broken defences are not caught, or honest networks failed, by toy."""

REASONS: dict[str, str] = {
    "decoy_robust": "a substitute that learns from labels alone finds images for three points "
    "fewer than the gradient of the network behind the decoy",
    "menet": "it has no gradient and answers at random, so that slopes from 8,000 answers a point "
    "stand in for the gradient of the network behind the completion of the images",
    "pruned": "an attack that averages the gradient over more draws than ours finds a little more",
    "cache_own_file": "the copy in the new process reads the same file, so that it remembers, too",
    "single_step": "the truth is an upper bound, too: here our attacks find more than the one "
    "that was made for it",
    "total_variation": "as for single step",
    "defense_gan": "as for single step",
    "winners": "as for single step",
    "autoencoder": "as for single step; the searches by labels find images on which it abstains",
    "memorised": "the bound is that of training images, on which the network is more robust than "
    "on the images that it has not seen",
}
"""Why the headline of some toys is further off, by toy."""


def main() -> None:
    """Judge, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("toys", nargs="*", metavar="TOY")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    known = read_record()["toys"]
    missing = [name for name in TOYS if name not in known]
    for name in [] if asked.page else asked.toys or missing:
        row = judge(name)
        print(describe(name, row), flush=True)
        keep(name, row)
    page = write_page(read_record())
    write_text(PAGE, page)
    write_text(DOCS, put_into_docs(page, DOCS.read_text(encoding="utf-8")))


def read_record() -> dict[str, Any]:
    """Return the record, empty where there is none."""
    empty: dict[str, Any] = {"toys": {}}
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else empty


def keep(name: str, row: dict[str, Any]) -> None:
    """Write a toy's row into the record as it is now, toys in the table's order, one a line."""
    known = read_record()["toys"] | {name: row}
    facts = {
        "threat": f"Linf:{EPS}",
        "ladder": "standard",
        "seed": 0,
        "threads": 1,
        "versions": {name: version(name) for name in ("abatis", "torch", "pyautoattack")},
    }
    rows = [f"  {json.dumps(one)}: {json.dumps(known[one])}" for one in TOYS if one in known]
    head = json.dumps(facts, indent=1).removesuffix("\n}")
    write_text(RECORD, head + ',\n "toys": {\n' + ",\n".join(rows) + "\n }\n}\n")


def judge(
    name: str, seed: int = 0, ladder: str = "standard", points: int | None = None
) -> dict[str, Any]:
    """Judge one toy in a new process; return its row.

    Args:
        name: of the toy.
        seed: of its weights.
        ladder: which attacks run.
        points: how many test images; None for as many as its table says.
    """
    get_toy(name, seed)  # trains what is not trained yet
    forget()
    model = f"{JUDGED}:{name}" + (f"_seed_{seed}" if seed else "")
    with tempfile.TemporaryDirectory() as folder:
        data = choose_data(TOYS[name], Path(folder))
        return evaluate(model, data, f"Linf:{EPS}", ladder, points or TOYS[name].points)


def evaluate(model: str, data: str, threat: str, ladder: str, points: int | None) -> dict[str, Any]:
    """Run ``defense eval`` in a process of its own; return its row."""
    words = ["eval", model, "--quiet", "--device", "cpu", "--data", data, "--threat", threat]
    words += ["--ladder", ladder] + ([] if points is None else ["--subset", str(points)])
    with tempfile.TemporaryDirectory() as folder:
        found, errors = Path(folder) / "eval.json", Path(folder) / "errors"
        process = FORKED.Process(target=_run, args=([*words, "--out", folder], errors))
        began, before = time.perf_counter(), _count_seconds()
        process.start()
        process.join()
        row = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "exit": process.exitcode,
            "seconds": round(time.perf_counter() - began),
            "processor_seconds": round(_count_seconds() - before),
        }
        if not found.exists():
            return row | {"verdict": None, "error": errors.read_text(encoding="utf-8")[-600:]}
        return row | read_evaluation(json.loads(found.read_text(encoding="utf-8")))


def _count_seconds() -> float:
    """Return the processor time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(words: list[str], errors: Path) -> None:
    """What the other process does."""
    with errors.open("w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 2)
        sys.exit(main_of_defense(words))


def choose_data(entry: Entry, folder: Path) -> str:
    """Return the data's name; digits with other labels are written to a file first."""
    if entry.relabel is None:
        return "digits"
    x, y, x_test, y_test = read_images()
    path = folder / "digits.npz"
    np.savez(
        path,
        x_train=(255 * x).round().byte().permute(0, 2, 3, 1).numpy(),
        y_train=entry.relabel(x, y).numpy(),
        x_test=(255 * x_test).round().byte().permute(0, 2, 3, 1).numpy(),
        y_test=entry.relabel(x_test, y_test).numpy(),
    )
    return f"npz:{path}"


def read_evaluation(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the record keeps of an eval.json."""
    tests = {
        test["id"]: [test["status"], test["value"], test["count"], test["of"]]
        for test in found["masking"]["tests"]
    }
    keys = ("n", "verdict", "clean_acc", "pgd20_acc", "autoattack_acc", "robust_acc")
    return {
        **{key: found.get(key) for key in keys},
        "robust_acc_upper": found.get("robust_acc_upper"),
        "abstained": found.get("abstained"),
        "tests": tests,
    }


def get_headline(row: dict[str, Any]) -> float | None:
    """Return the headline, or the upper bound that stands in its place."""
    return (
        row.get("robust_acc") if row.get("robust_acc") is not None else row.get("robust_acc_upper")
    )


def list_spoken(row: dict[str, Any], status: str) -> list[str]:
    """Return which tests warned, or failed."""
    return [test for test, facts in row.get("tests", {}).items() if facts[0] == status]


def read_truth() -> dict[str, float]:
    """Return the true robust accuracy by toy."""
    known = json.loads(TRUTH.read_text(encoding="utf-8"))
    return {name: facts["truth"] for name, facts in known.items()}


def describe(name: str, row: dict[str, Any]) -> str:
    """Return one line about a toy."""
    headline, truth = get_headline(row), read_truth().get(name)
    gap = None if headline is None or truth is None else round(100 * (headline - truth), 1)
    spoken = " ".join([*list_spoken(row, "fail"), "/", *list_spoken(row, "warn")])
    return (
        f"{name}: {row['verdict']} ({spoken}), headline - truth {gap}, "
        f"{row['seconds']} s, {row['processor_seconds']} s of the processor"
    )


def write_page(record: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    rows, truth = record["toys"], read_truth()
    lines = ["# The verdict on broken defences and on honest networks", "", summarise(rows), ""]
    for title, broken in (("Broken", True), ("Honest", False)):
        names = [name for name in rows if name in TOYS and TOYS[name].broken is broken]
        lines += [f"## {title}", "", *make_table(names, rows, truth), ""]
    for title, reasons in (("Not caught, or failed", MISSED), ("Further off", REASONS)):
        if reasons:
            told = [f"* {name.replace('_', ' ')}: {why}." for name, why in reasons.items()]
            lines += [f"## {title}", "", *told, ""]
    return "\n".join(lines)


def put_into_docs(page: str, docs: str) -> str:
    """Return the text of docs/evaluation.md with the page between its two marks."""
    before, rest = docs.split(BEGIN)
    after = rest[rest.index(END) :]
    body = page.split("\n", 2)[2].replace("\n## ", "\n### ").strip()
    return f"{before}{BEGIN}\n\n{body}\n\n{after}"


def make_table(names: list[str], rows: dict[str, Any], truth: dict[str, float]) -> list[str]:
    """Return the lines of one table."""
    lines = [
        "| toy | what | verdict | failed | warned | PGD-20 | headline | truth | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        row = rows[name]
        headline, true = get_headline(row), truth.get(name)
        bound = "at most " if row.get("robust_acc") is None else ""
        cells = [
            name.replace("_", " "),
            TOYS[name].after,
            row["verdict"] or "no report",
            " ".join(list_spoken(row, "fail")) or "-",
            " ".join(list_spoken(row, "warn")) or "-",
            "-" if row.get("pgd20_acc") is None else f"{100 * row['pgd20_acc']:.1f}",
            "-" if headline is None else f"{bound}{100 * headline:.1f}",
            f"{100 * true:.1f}",
            "-" if headline is None else f"{100 * (headline - true):+.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def summarise(rows: dict[str, Any]) -> str:
    """Return the counts in one sentence each."""
    truth = read_truth()
    broken = [name for name in rows if TOYS[name].broken]
    honest = [name for name in rows if not TOYS[name].broken]
    verdicts = {
        verdict: [n for n in broken if rows[n]["verdict"] == verdict]
        for verdict in ("FAIL", "WARN", "PASS", "UNDECIDED", None)
    }
    near = [
        name
        for name in rows
        if (headline := get_headline(rows[name])) is not None
        and abs(headline - truth[name]) <= NEAR
    ]
    failed = [name for name in honest if rows[name]["verdict"] in ("FAIL", None)]
    waiting = [name for name in TOYS if name not in rows]
    missed = [name for name in broken if rows[name]["verdict"] not in ("FAIL", "WARN")]
    return (
        f"Of {len(broken)} broken defences {len(verdicts['FAIL'])} get FAIL, "
        f"{len(verdicts['WARN'])} WARN, {len(missed)} neither"
        f"{' (' + ', '.join(missed) + ')' if missed else ''}. Of {len(honest)} honest networks "
        f"{len(failed)} get FAIL{' (' + ', '.join(failed) + ')' if failed else ''}. The headline, "
        f"or the upper bound that stands in its place, is within {100 * NEAR:.0f} points of the "
        f"truth for {len(near)} of {len(rows)}."
        f"{' Not judged yet: ' + ', '.join(waiting) + '.' if waiting else ''}"
    )


if __name__ == "__main__":
    main()
