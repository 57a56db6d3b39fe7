"""An exported run, judged by RobustBench's own code: does it see the accuracies that we report,
point by point?

    python benchmarks/robustbench_check.py EXPORT IMAGES.npz RUN/eval.json

EXPORT: what ``defense export RUN --to robustbench --out EXPORT`` wrote. IMAGES: x_test (N, H, W, C)
uint8 and y_test (N,), of which the first n were judged. Run it where robustbench is installed and
abatis is not: robustbench pins timm, so it needs an environment of its own. Writes
benchmarks/results/robustbench-check.json and .md. The run of the record:

    defense-run --data npz:cifar10_small.npz --limit 1024 --backbone resnet8 --epochs 20 \\
        --batch-size 32 --attack.steps 5
        --attack.step-size 3/255 --optim.lr 0.05 --optim.schedule one-cycle
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import runpy
import sys
import time
from datetime import UTC, datetime
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import pyautoattack.state
import torch
from benchmarks.record_files import list_versions
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "robustbench", "pyautoattack", "timm", "numpy")
BATCH = 256  # as in our evaluation: the package draws its random starts batch by batch


def main() -> None:
    """Load, judge, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("export", "images", "evaluation"):
        parser.add_argument(name, type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ours = json.loads(asked.evaluation.read_text(encoding="utf-8"))
    (info,) = asked.export.glob("model_info/*/*/*.json")
    entry = json.loads(info.read_text(encoding="utf-8"))
    with np.load(asked.images) as arrays:
        x = (
            torch.from_numpy(arrays["x_test"][: ours["n"]])
            .permute(0, 3, 1, 2)
            .float()
            .div(255)
            .contiguous()
        )
        y = torch.from_numpy(arrays["y_test"][: ours["n"]])
    network = runpy.run_path(str(asked.export / "load.py"))["load"]()
    assert importlib.util.find_spec("abatis") is None, "run this where abatis is not installed"
    theirs = judged(network, x, y, ours["threat"].partition(":")[0], entry["eps"], ours["seed"])
    record = compared(ours, theirs, entry)
    for name, text in {"json": json.dumps(record, indent=1) + "\n", "md": table(record)}.items():
        (RESULTS / f"robustbench-check.{name}").write_text(text, encoding="utf-8")
    print(table(record))


def judged(
    network: torch.nn.Module, x: Tensor, y: Tensor, norm: str, eps: str, seed: int
) -> dict[str, Any]:
    """RobustBench's clean accuracy, and AutoAttack in one call, as RobustBench makes it; verdicts
    (n,) bool.
    """
    clean_accuracy = robustbench_clean_accuracy()
    began = time.perf_counter()
    radius = float(Fraction(eps))
    attack = pyautoattack.AutoAttack(
        network, norm=norm, eps=radius, version="standard", seed=seed, device="cpu"
    )
    adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=BATCH)
    seconds = time.perf_counter() - began
    with torch.no_grad():
        right = [network(images).argmax(1) == y for images in (x, adversarial)]
    return {
        "clean_acc": clean_accuracy(network, x, y),
        "autoattack_acc": clean_accuracy(network, adversarial, y),
        "clean": right[0],
        "AutoAttack": right[1],
        "seconds": seconds,
    }


def robustbench_clean_accuracy() -> Any:
    """RobustBench's function. Its release imports AutoAttack by a name that is not on the index,
    and torchvision, which beside a CPU build of torch lacks two operators that nothing here calls.
    """
    sys.modules.setdefault("autoattack", pyautoattack)
    sys.modules.setdefault("autoattack.state", pyautoattack.state)
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_kept"] = library  # a library that goes takes its operators with it
    from robustbench.utils import clean_accuracy

    return clean_accuracy


def compared(ours: dict[str, Any], theirs: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """The record."""
    rows = []
    for key, name in (("clean_acc", "clean"), ("autoattack_acc", "AutoAttack")):
        verdicts = torch.tensor(ours["per_point"][name]).bool()
        rows.append(
            {
                "measure": name,
                "ours": ours[key],
                "theirs": theirs[key],
                "exported": entry[key],
                "points with another verdict": int((verdicts != theirs[name]).sum()),
            }
        )
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
        "n": ours["n"],
        "threat": ours["threat"],
        "seed": ours["seed"],
        "architecture": entry["architecture"],
        "data": ours["data"].rpartition("/")[2],
        "autoattack_seconds": round(theirs["seconds"]),
        "rows": rows,
    }


def table(record: dict[str, Any]) -> str:
    """Markdown."""
    versions = list_versions(record)
    lines = [
        "# An exported run in RobustBench's hands",
        "",
        f"{record['date']}, {versions}. {record['architecture']} on {record['n']} test images of "
        f"{record['data']}, "
        f"{record['threat']}, seed {record['seed']}, one thread.",
        "",
        "| measure | ours | RobustBench | exported | points with another verdict |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        shares = " | ".join(f"{100 * row[who]:.4f} %" for who in ("ours", "theirs"))
        lines.append(
            f"| {row['measure']} | {shares} | {row['exported']} | "
            f"{row['points with another verdict']} of {record['n']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
