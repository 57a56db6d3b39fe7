"""Train and judge the rows of one part that are missing, in their order.

    OMP_NUM_THREADS=1 python -m benchmarks.paper_scale average-margin --data-dir data

Stop it at any time: a run goes on from its last epoch, and a row that is written is kept. Writes
``benchmarks/results/paper-PART.json``. One thread; several parts may run beside each other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.paper_scale.exam import take_exam
from benchmarks.paper_scale.rows import BRIEF, ROWS, Row

import abatis
from abatis.api.threat import Threat
from abatis.data import DataRequest, open_data
from abatis.data.order import choose_stratified

RESULTS = Path(__file__).parent.parent / "results"
POINTS = 1000
KEPT = (
    *("threat", "ladder", "n", "clean_acc", "pgd20_acc", "autoattack_acc", "robust_acc", "verdict"),
    *("findings", "interval", "margins", "per_point", "seed", "weights_sha256", "points_sha256"),
)
"""Of an evaluation, what a record keeps."""
EXAMS = {"average-margin": ("L2:1.0", "L2:2.0")}
JUDGED = {
    "average-margin": ("L2:1.0", "L2:2.0"),
    "mnist-linf": ("Linf:0.3",),
    "amm": ("L2:0.5",),
    "cifar10-linf": ("Linf:8/255",),
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=sorted({row.part for row in ROWS}))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/paper_rows"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", default=[], help="methods to run")
    asked = parser.parse_args()
    path = asked.results / f"paper-{asked.part}.json"
    for row in (row for row in ROWS if row.part == asked.part):
        if row.name in read_record(path)["rows"] or (asked.only and row.method not in asked.only):
            continue
        found = run_row(row, asked.runs.resolve(), asked.data_dir.resolve())
        record = read_record(path)
        record["rows"][row.name] = found
        path.write_text(json.dumps(record) + "\n")
        print(f"{row.name}: written", flush=True)


def read_record(path: Path) -> dict[str, Any]:
    """The record so far."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    return found


def run_row(row: Row, runs: Path, data_dir: Path) -> dict[str, Any]:
    """Train, or go on; then judge. Returns what the record keeps."""
    folder, history = runs / row.name, runs / f"{row.name}-margins.json"
    trials = choose(row, runs, data_dir)
    words = [*row.args, *(trials[0]["args"] if trials else ()), "--seed", str(row.seed)]
    if row.history:
        plugin = Path(__file__).parent / "margin_history.py"
        words += ["--plugin", "average-margin", "--plugin", str(plugin)]
        words += ["--margin-history.data-dir", str(data_dir)]
        words += ["--margin-history.file", str(history)]
    train(folder, words, data_dir)
    began = time.process_time()
    evaluation = judge(folder, JUDGED[row.part], data_dir)
    exams = {}
    if row.part in EXAMS:
        test = open_data(DataRequest("mnist", data_dir, None, augment="none")).test
        points = test.subset(choose_stratified(test.labels, POINTS))
        model = abatis.load(folder)
        exams = {text: take_exam(model, points, Threat.parse(text)) for text in EXAMS[row.part]}
    return {
        "method": row.method,
        "seed": row.seed,
        "args": list(row.args),
        "trials": trials,
        "commit": os.environ.get("ABATIS_COMMIT", "not given"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "judging_seconds_here": round(time.process_time() - began, 1),
        "last_epoch": read_metrics(folder)[-1],
        "exam": exams,
        "history": json.loads(history.read_text()) if history.exists() else [],
        "evaluations": evaluation,
    }


def choose(row: Row, runs: Path, data_dir: Path) -> list[dict[str, Any]]:
    """Return the trials of a row with their accuracy on held-out images, the best one first."""
    found = []
    for number, trial in enumerate(row.trials):
        folder = runs / f"{row.name}-trial{number}"
        train(folder, [*row.args, *BRIEF, *trial, "--seed", str(row.seed)], data_dir)
        last = read_metrics(folder)[-1]
        found.append(
            {"args": trial, "robust": last["val_robust_acc"], "clean": last["val_clean_acc"]}
        )
    return sorted(found, key=lambda trial: (trial["robust"], trial["clean"]), reverse=True)


def train(folder: Path, words: list[str], data_dir: Path) -> None:
    """Train with these arguments, from the folder's last checkpoint if there is one.

    Raises:
        SystemExit: the run did not end; its own message says why.
    """
    words = [*words, "--ladder", "none", "--data-dir", str(data_dir)]
    words += ["--out", str(folder.parent), "--name", folder.name]
    ended = folder / "ended.json"
    if ended.exists() and json.loads(ended.read_text())["state"] == "finished":
        return
    if folder.exists():
        words += ["--resume"]
    code = subprocess.run([command("defense-run"), *words], check=False).returncode
    if code:
        raise SystemExit(f"{folder.name}: training ended with exit code {code}")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def judge(folder: Path, threats: Sequence[str], data_dir: Path) -> dict[str, Any]:
    """Judge a run by the standard ladder.

    Returns:
        What is found under each threat, as far as the record keeps it.

    Raises:
        SystemExit: the evaluation did not end; its own message says why.
    """
    place = folder / "judged"
    words = ["eval", str(folder), "--subset", str(POINTS), "--data-dir", str(data_dir)]
    words += [word for threat in threats for word in ("--threat", threat)]
    words += ["--out", str(place), "--quiet"]
    if code := subprocess.run([command("defense"), *words], check=False).returncode:
        raise SystemExit(f"{folder.name}: the evaluation ended with exit code {code}")
    return split_threats(json.loads((place / "eval.json").read_text()))


def split_threats(found: Mapping[str, Any]) -> dict[str, Any]:
    """What an ``eval.json`` says under each of its threats, without what no page shows."""
    everything = {found["threat"]: found, **found.get("under", {})}
    return {
        threat: {name: value for name, value in one.items() if name in KEPT}
        for threat, one in everything.items()
    }


def command(name: str) -> str:
    """The command that lies beside this Python."""
    return str(Path(sys.executable).parent / name)


if __name__ == "__main__":
    main()
