"""Run folders made by hand: as few files, and as few facts in them, as a comparison reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from abatis.config.run_config import RunConfig


def share(flags: Sequence[int]) -> float:
    return sum(flags) / len(flags)


def record(
    clean: Sequence[int], pgd: Sequence[int], robust: Sequence[int] | None = None, **changes: Any
) -> dict[str, Any]:
    """An evaluation with these outcomes per image; an old one where ``robust`` is not given."""
    found: dict[str, Any] = {
        "n": len(clean),
        "clean_acc": share(clean),
        "pgd20_acc": share(pgd),
        "autoattack_acc": None,
        "threat": "Linf:0.1",
        "data": "digits",
        "per_point": {"clean": list(clean), "PGD-20": list(pgd)},
    }
    if robust is not None:
        found["per_point"]["robust"] = list(robust)
        found |= {
            "robust_acc": share(robust),
            "ladder": "quick",
            "seed": 0,
            "verdict": "PASS",
            "adaptive_attack": None,
        }
    return {**found, **changes}


def margins(logit: float | None, l2: float | None) -> dict[str, Any]:
    return {"measures": {"logit": {"mean": logit}, "input_L2": {"mean": l2}}}


def run_folder(
    folder: Path, evaluation: dict[str, Any] | None, *metrics: dict[str, Any], **options: Any
) -> Path:
    """A run folder; options: what its run.toml says, on top of a cnn on digits."""
    folder.mkdir(parents=True)
    config = RunConfig.model_validate({"data": "digits", "backbone": "cnn", "epochs": 2, **options})
    (folder / "run.toml").write_text(tomli_w.dumps(config.to_toml()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if evaluation is not None:
        (folder / "eval.json").write_text(json.dumps(evaluation))
    return folder
