"""A made-up run folder, complete and realistic, and a reader of the pages made from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

N, CLASSES = 500, 10
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RIGHT = {
    "clean": 420,
    "PGD-20": 250,
    "margin-PGD-20": 240,
    "APGD-CE": 244,
    "APGD-T": 231,
    "FAB-T": 231,
    "Square": 230,
    "AutoAttack": 230,
    "robust": 227,
}
TESTS = (
    (
        "D1",
        "graph reaches the input",
        None,
        "-",
        "raises or gives None",
        "the gradient reaches the input",
    ),
    (
        "D2",
        "zero input gradients",
        0.0,
        "> 0 points",
        "> 1 %",
        "no point has an exactly zero gradient of the margin loss",
    ),
    (
        "D3",
        "tiny input gradients",
        0.013,
        "> 5 %",
        "> 20 %",
        "largest gradient entry below 1e-6 on few points",
    ),
    ("D4", "non-finite values", 0.0, "-", "any", "all logits and gradients are finite"),
    (
        "D5",
        "gradient against finite differences",
        1.004,
        "outside 0.9 to 1.1",
        "outside 0.5 to 1.5",
        "median ratio 1.004",
    ),
    ("D6", "two forwards agree", 0.0, "> 1e-4", "any label flips", "bit-identical logits"),
    ("D7", "output is no distribution", 0.0, "yes", "-", "the outputs look like logits"),
    (
        "D9",
        "iterative beats single step",
        0.0,
        "> 1 %",
        "> 2 %",
        "FGSM broke nothing that PGD left standing",
    ),
    (
        "D10",
        "white-box beats Square",
        0.0048,
        "> 1 %",
        "> 2 %",
        "Square broke 1 point beyond the white-box attacks",
    ),
    (
        "D11",
        "transfer from an undefended twin",
        None,
        "> 1 %",
        "> 2 %",
        "no training images were given",
    ),
    (
        "D13",
        "100 steps gain little over 20",
        0.014,
        "> 3 %",
        "> 6 %",
        "3 more points fell within 100 steps",
    ),
    (
        "D18",
        "cross-entropy finds what the margin finds",
        0.03,
        "> 10 %",
        "> 25 %",
        "7 points survive cross-entropy alone",
    ),
    ("D21", "scale invariance", -0.01, "> 2 %", "> 5 %", "rescaled logits are no easier to attack"),
)


def run_folder(path: Path, *, failed: str = "", epochs: int = 30) -> Path:
    """Fill a folder as a run does; ``failed``: the id of a masking test that fails."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in (("eval", record(failed)), ("plan", PLAN), ("environment", ENVIRONMENT)):
        (path / f"{name}.json").write_text(json.dumps(content))
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps(_epoch(number, epochs)) + "\n" for number in range(1, epochs + 1))
    )
    (path / "run.toml").write_text(
        'backbone = "resnet18"\ndata = "cifar10"\nepochs = 30\nseed = 0\nthreat = "Linf:8/255"\n'
    )
    return path


def record(failed: str = "") -> dict[str, Any]:
    """An eval.json with every part."""
    findings = [
        f"{failed} {name}: beyond its threshold" for key, name, *_ in TESTS if key == failed
    ]
    return {
        "format": 2,
        "n": N,
        "clean_acc": 0.84,
        "pgd20_acc": 0.5,
        "margin_pgd20_acc": 0.48,
        "autoattack_acc": 0.46,
        "robust_acc": 0.454,
        "counts": RIGHT,
        "interval": {"clean_acc": [0.8053, 0.8695], "robust_acc": [0.4109, 0.4978]},
        "ladder": "thorough",
        "seed": 0,
        "threat": "Linf:8/255",
        "data": "cifar10",
        "note": "",
        "num_classes": CLASSES,
        "attacks": _attacks(),
        "verdict": "FAIL" if failed else "PASS",
        "findings": findings,
        "adaptive_attack": None,
        "masking": {"points": 256, "tests": [_test(*test, failed) for test in TESTS]},
        "margins": _margins(),
        "curve": {
            "points": 256,
            "norm": "Linf",
            "eps": [0.0, 0.0078, 0.0157, 0.0314, 0.0627, 0.1255, 0.5, 1.0],
            "accuracy": [0.84, 0.77, 0.67, 0.46, 0.14, 0.01, 0.0, 0.0],
        },
        "per_class": {
            "n": [50] * CLASSES,
            "clean": [44, 47, 38, 34, 40, 37, 45, 44, 46, 45],
            "robust": [27, 33, 15, 8, 13, 16, 22, 29, 31, 33],
        },
        "class_names": list(NAMES),
        "per_point": {
            name: [int(point < right) for point in range(N)] for name, right in RIGHT.items()
        },
        "weights": "weights.safetensors",
        "weights_sha256": "3f7a" * 16,
        "model": "run folder",
        "selected_at_epoch": 22,
        "selected_on": "held-out robust accuracy",
        "test_set_evaluations": 1,
    }


def _test(
    key: str, name: str, value: float | None, warn: str, fail: str, says: str, failed: str
) -> dict[str, Any]:
    status = (
        "fail"
        if key == failed
        else "not applicable"
        if key == "D11"
        else "note"
        if key == "D13"
        else "pass"
    )
    counted = value is not None and "%" in fail
    count = round(abs(value) * 210) if counted else None
    return {
        "id": key,
        "name": name,
        "status": status,
        "value": value,
        "count": count,
        "of": 210 if counted else None,
        "interval": [0.0, abs(value) + 0.02] if counted else None,
        "warn": warn,
        "fail": fail,
        "says": says,
    }


def _attacks() -> dict[str, Any]:
    pgd = {
        "norm": "Linf",
        "eps": "8/255",
        "steps": 20,
        "restarts": 1,
        "attacked": 420,
        "rejected": 0,
    }
    auto = {"norm": "Linf", "eps": "8/255", "restarts": 1, "rejected": 0}
    names = ["apgd-ce", "apgd-t", "fab-t", "square"]
    return {
        "PGD-20": {**pgd, "loss": "cross-entropy", "accuracy": 0.5},
        "margin-PGD-20": {**pgd, "loss": "margin", "accuracy": 0.48},
        "AutoAttack": {
            "norm": "Linf",
            "eps": "8/255",
            "version": "standard",
            "attacks": names,
            "accuracy": 0.46,
        },
        "APGD-CE": {
            **auto,
            "loss": "cross-entropy",
            "steps": 100,
            "accuracy": 0.488,
            "attacked": 420,
        },
        "APGD-T": {
            **auto,
            "loss": "targeted DLR",
            "steps": 100,
            "targets": 9,
            "accuracy": 0.462,
            "attacked": 244,
        },
        "FAB-T": {
            **auto,
            "loss": "logit difference",
            "steps": 100,
            "targets": 9,
            "accuracy": 0.462,
            "attacked": 231,
        },
        "Square": {**auto, "loss": "margin", "queries": 5000, "accuracy": 0.46, "attacked": 231},
    }


def _margins() -> dict[str, Any]:
    def spread(unit: str, scale: float) -> dict[str, Any]:
        quantiles = zip(
            ("0.05", "0.25", "0.5", "0.75", "0.95"), (-0.5, 0.3, 1.0, 1.8, 2.9), strict=True
        )
        return {
            "unit": unit,
            "mean": 1.07 * scale,
            "min": -1.6 * scale,
            "quantiles": {at: v * scale for at, v in quantiles},
        }

    edges = [-4 + 0.6 * number for number in range(21)]
    clean, adversarial = (
        [round(44 * math.exp(-(((edge - mean) / 2) ** 2))) for edge in edges[:-1]]
        for mean in (2.4, -0.4)
    )
    measures = {
        "logit": spread("logits", 2.1),
        "probability": spread("probability", 0.3),
        "effective_L2": spread("pixels, L2", 0.41),
        "effective_Linf": spread("pixels, Linf", 0.021),
        "input_L2": spread("pixels, L2", 0.39),
        "input_Linf": spread("pixels, Linf", 0.02),
    }
    histogram = {"measure": "logit", "edges": edges, "clean": clean, "adversarial": adversarial}
    return {
        "points": 256,
        "measures": measures,
        "rho_adv_L2": 0.0132,
        "rho_adv_Linf": 0.0345,
        "histogram": histogram,
        "unreached": {"logit": 0, "input_L2": 2},
    }


def _epoch(number: int, epochs: int) -> dict[str, Any]:
    done = number / epochs
    robust = 0.2 + 0.55 * done**0.7
    held_out = 0.2 + 0.42 * math.sin(min(done, 0.75) * 2) ** 0.8 * 0.72 - max(0, done - 0.75) * 0.25
    return {
        "epoch": number,
        "step": 391 * number,
        "lr": 0.1 * (1 - done),
        "loss": 2.1 - 1.2 * done**0.6,
        "bce": 1.7 - 1.1 * done**0.6,
        "smooth/kl": 0.4 - 0.1 * done,
        "train_robust_acc": robust,
        "train_clean_acc": robust + 0.2 - 0.02 * done,
        "val_clean_acc": 0.4 + 0.44 * done**0.5,
        "val_robust_acc": held_out,
        "seconds": 31.5 * number,
    }


PLAN = [
    {
        "role": "data",
        "provider": "cifar10",
        "version": "",
        "options": {"classes": 10, "pixels": 32, "augment": "flip, crop"},
    },
    {
        "role": "backbone",
        "provider": "cifar_resnet18",
        "version": "",
        "options": {"parameters": "11,173,962"},
    },
    {
        "role": "attacker",
        "provider": "pgd",
        "version": "built-in",
        "options": {
            "steps": 10,
            "start": "uniform",
            "bn": "eval",
            "step_size": "0.00784314",
            "threat": "Linf:8/255",
        },
    },
    {
        "role": "loss",
        "provider": "boosted",
        "version": "0.1.0",
        "options": {"weight": 6.0, "temperature": 1.0},
    },
    {
        "role": "regularizer",
        "provider": "smooth",
        "version": "0.1.0",
        "options": {"weight": 0.05, "decay_epochs": [60, 90]},
    },
]
ENVIRONMENT = {
    "command": [
        "/usr/local/bin/defense-run",
        "--plugin",
        "boosted",
        "--plugin",
        "smooth",
        "--data",
        "cifar10",
    ],
    "python": "3.12.4",
    "platform": "Linux-6.8-x86_64-with-glibc2.39",
    "device": "NVIDIA A100",
    "threads": 8,
    "libraries": {
        "abatis": "0.1.0",
        "torch": "2.8.0",
        "timm": "1.0.15",
        "pyautoattack": "0.2.0",
        "torchvision": None,
    },
    "providers": {"pgd": "built-in", "boosted": "0.1.0", "smooth": "0.1.0"},
}
