"""Every method and the pairs of the papers, from the same start, seeds and budget, judged by the
same attacks.

    python benchmarks/methods.py digits            # all 1,437 training digits
    python benchmarks/methods.py cifar10-small     # 2,000 CIFAR-10 images; needs ABATIS_REFERENCE
    python benchmarks/methods.py digits --sweep    # the weight of one regularizer over five decades

Every network is judged with its batch norms folded into its convolutions: the same function up to
rounding, sooner.

Writes benchmarks/results/NAME.json, one row a run, and NAME.md, their means. Resumable: rows that
are there are kept.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

import abatis
from abatis import RunConfig
from abatis.api.threat import Threat
from abatis.data import DataRequest, open_data
from abatis.evaluate import judge_with_pgd, margin
from abatis.evaluate.autoattack import run_autoattack
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge, Points
from abatis.evaluate.pgd import margin as logit_margin
from abatis.nets.folding import find_folding
from abatis.nets.net import Net

RESULTS = Path(__file__).parent / "results"
REFERENCE = Path(os.environ.get("ABATIS_REFERENCE", Path(__file__).resolve().parents[2] / "shared"))
SEEDS = (0, 1, 2)
POINTS = 100  # for AutoAttack and DeepFool
CPU = torch.device("cpu")
SETTLED: dict[str, Any] = {"seed": 0, "batch_size": 256}

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "data": "digits",
        "backbone": "cnn",
        "threat": "Linf:0.1",
        "epochs": 10,
        "batch_size": 128,
        "attack": {"steps": 10},
        "optim": {"lr": 0.1, "schedule": "one-cycle"},
    },
    "cifar10-small": {
        "data": f"npz:{REFERENCE}/data/cifar10_small.npz",
        "limit": 2000,
        "backbone": "resnet8",
        "threat": "Linf:8/255",
        "epochs": 6,
        "batch_size": 32,
        "attack": {"steps": 2, "step_size": "5/255"},
        "optim": {"lr": 0.05, "schedule": "one-cycle"},
    },
}

CLEAN = {"use": {"attacker": "none"}}
METHODS: dict[str, dict[str, Any]] = {
    "standard": CLEAN,
    "at": {},
    "trades": {"plugin": ["trades"]},
    "mart": {"plugin": ["mart"]},
    "mail": {"plugin": ["mail"], "mail": {"burn_in": 0}},
    "mail+trades": {
        "plugin": ["mail", "trades"],
        "mail": {"burn_in": 0, "slope": 2, "bias": 0},
        "trades": {"beta": 5},
    },
    "mail+mart": {
        "plugin": ["mail", "mart"],
        "mail": {"burn_in": 0, "slope": 2, "bias": 0},
        "mart": {"beta": 5},
    },
    "gairat": {"plugin": ["gairat"], "gairat": {"burn_in": 0}},
    "sovr": {"plugin": ["sovr"]},
    "emr": {"plugin": ["emr"]},
    "mart+emr": {"plugin": ["mart", "emr"]},
    "mail+emr": {"plugin": ["mail", "emr"], "mail": {"burn_in": 0}},
    "trades+emr": {"plugin": ["trades", "emr"]},
    "awp": {"plugin": ["awp"]},
    "sovr+awp": {"plugin": ["sovr", "awp"]},
    "input-gradient": {"plugin": ["input-gradient"]},
    "jacobian": {"plugin": ["jacobian"]},
    "fgsm-rs": {"plugin": ["fast"]},
    "n-fgsm": {"plugin": ["fast"], "fast": {"variant": "n-fgsm"}},
    "amm (clean)": {"plugin": ["amm"], **CLEAN},
    "average-margin (clean)": {"plugin": ["average-margin"], **CLEAN},
    "orthogonality only (clean)": {
        "plugin": ["average-margin"],
        "average_margin": {"weight": 0},
        **CLEAN,
    },
}
SHORTER = {"cifar10-small": {"amm (clean)": {"amm": {"iterations": 2, "candidates": 4}}}}
"""What a setting has no time for: DeepFool's five steps towards nine classes, in and outside of the
graph.
"""

SWEEP = {
    f"emr weight {weight:g}": {"plugin": ["emr"], "emr": {"weight": weight}}
    for weight in (0, 3, 30, 300, 3000, 30000, 300000)
}
COLUMNS = (
    "clean",
    "pgd20",
    "margin_pgd20",
    "autoattack",
    "logit_margin",
    "low_logit_margin",
    "input_margin",
    "seconds",
)


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=SEEDS,
        help="several processes may share the work by seeds",
    )
    asked = parser.parse_args()
    path = RESULTS / f"methods-{asked.setting}{'-sweep' if asked.sweep else ''}.json"
    shorter = SHORTER.get(asked.setting, {})
    facts = {
        "setting": {**_shown(SETTINGS[asked.setting]), **shorter},
        "points": POINTS,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    RESULTS.mkdir(exist_ok=True)
    for seed in asked.seeds:
        for method, options in (SWEEP if asked.sweep else METHODS).items():
            done = {(row["method"], row["seed"]) for row in kept(path)["rows"]}
            if (method, seed) not in done:
                row = {
                    "method": method,
                    "seed": seed,
                    **one_row(SETTINGS[asked.setting], options | shorter.get(method, {}), seed),
                }
                print(row, flush=True)
                add(path, facts, row)
    path.with_suffix(".md").write_text(table(kept(path)))


def kept(path: Path) -> dict[str, Any]:
    """The record so far."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
    return found


def add(path: Path, facts: dict[str, Any], row: dict[str, Any]) -> None:
    """Add one row, while no other process does."""
    with (RESULTS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = kept(path)
        order = list(SWEEP | METHODS)
        rows = sorted(
            [*record["rows"], row], key=lambda row: (order.index(row["method"]), row["seed"])
        )
        path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


def one_row(setting: dict[str, Any], options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train and judge once; a run that fails is a row that says so."""
    out = Path(tempfile.mkdtemp())
    config = RunConfig(
        **{**setting, **options, "seed": seed, "eval": "none", "quiet": True, "out": out}
    )
    began = time.process_time()
    try:
        folder = abatis.run(config).folder
        seconds = time.process_time() - began
        return {**judged(abatis.load(folder), config), "seconds": round(seconds, 1)}
    except abatis.AbatisError as error:
        return {"failed": f"{type(error).__name__}: {error.what}"}
    finally:
        shutil.rmtree(out, ignore_errors=True)


def judged(model: nn.Module, config: RunConfig) -> dict[str, float]:
    """Accuracies as fractions, margins as means over the test images (logits), or over the first
    ones (pixels, L2).
    """
    data = open_data(DataRequest(config.data, config.data_dir, config.limit, augment="none"))
    threat, some = config.threat_model, data.test.subset(torch.arange(POINTS))
    batch = next(data.test.eval_batches(len(data.test)))
    with find_folding(model, lambda: model(batch.x[:2])).active():
        clean, pgd20 = judge_with_pgd(model, data.test, threat, steps=20, **SETTLED)
        _, margin_pgd20 = judge_with_pgd(
            model, data.test, threat, steps=20, objective=margin, **SETTLED
        )
        margins = -logit_margin(model(batch.x).detach(), batch.y)
        return {
            "clean": clean.double().mean().item(),
            "pgd20": pgd20.double().mean().item(),
            "margin_pgd20": (pgd20 & margin_pgd20).double().mean().item(),
            "autoattack": standard(model, some, threat),
            "logit_margin": margins.mean().item(),
            "low_logit_margin": margins.quantile(0.1).item(),
            "input_margin": input_margin(model, batch.x[:POINTS], batch.y[:POINTS]),
        }


def standard(model: nn.Module, points: Points, threat: Threat) -> float:
    """Accuracy under AutoAttack standard."""
    with isolate(model) as net:
        judge = Judge(net, points, threat, SETTLED["batch_size"])
        clean = judge.classify_clean()
        verdicts = run_autoattack(judge, clean, SETTLED["seed"], CPU, FinishedAttacks()).verdicts
    return verdicts[-1].accuracy


def input_margin(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean L2 norm of DeepFool perturbations (50 steps), counted negative where the image is
    misclassified.
    """
    from abatis_amm import AmmConfig
    from abatis_amm.deepfool import DeepFool, size

    net = Net(model)
    with torch.no_grad():
        logits = net.frozen(x)
    r, _ = DeepFool(net, AmmConfig(iterations=50))(x, logits, None, graph=False)
    sign = torch.where(logits.argmax(1) == y, 1.0, -1.0)
    return (sign * size(r, "L2")).mean().item()


def table(record: dict[str, Any]) -> str:
    """Means and standard deviations over the seeds."""
    head = ["method", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    methods = list(dict.fromkeys(row["method"] for row in record["rows"]))
    for method in methods:
        rows = [row for row in record["rows"] if row["method"] == method]
        failed = [row["failed"] for row in rows if "failed" in row]
        cells = (
            [failed[0]] if failed else [_cell(key, [row[key] for row in rows]) for key in COLUMNS]
        )
        lines.append(f"| {method} | {' | '.join(cells)} |")
    seeds = len({row["seed"] for row in record["rows"]})
    facts = ", ".join(f"{key} {record[key]}" for key in ("date", "torch", "threads", "points"))
    return (
        f"# {record['setting']['data']}: methods from the same start, seeds and budget\n\n{facts}, "
        f"seeds {seeds}. "
        "Accuracies in percent, AutoAttack and the input margin (L2, DeepFool) on the first "
        "points, "
        "margins of logits at clean test images (mean, lowest tenth), seconds of processor time "
        "for training. "
        "Mean and standard deviation over the seeds. Setting: "
        f"`{json.dumps(record['setting'])}`\n\n" + "\n".join(lines) + "\n"
    )


def _cell(key: str, values: list[float]) -> str:
    factor = 100 if key in COLUMNS[:4] else 1
    deviation = f" ± {factor * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{factor * statistics.mean(values):.2f}{deviation}"


def _shown(setting: dict[str, Any]) -> dict[str, Any]:
    return {**setting, "data": setting["data"].rpartition("/")[2]}


if __name__ == "__main__":
    main()
