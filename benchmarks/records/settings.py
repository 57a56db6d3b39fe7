"""What the records are: one setting a scale, and for each record what differs from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.methods import METHODS, SETTINGS, SHORTER

SCALES = ("full", "small")
TEST_IMAGES = 10_000
POINTS = {"full": TEST_IMAGES, "small": 100}  # test images for AutoAttack and the diagnostics
WITHOUT_ACCELERATOR = 1_000  # at full scale

SETTING: dict[str, dict[str, Any]] = {
    "full": {
        "data": "cifar10",
        "backbone": "resnet18",
        "threat": "Linf:8/255",
        "epochs": 30,
        "batch_size": 128,
        "attack": {"steps": 10, "step_size": "2/255", "precision": "bf16"},
        "optim": {"lr": 0.1, "schedule": "one-cycle"},
    },
    "small": {**SETTINGS["cifar10-small"], "data": "cifar10"},
}


@dataclass(frozen=True)
class Record:
    """options: what differs from the setting, at both scales; at: what differs more, by scale;
    target: a speed record's AutoAttack accuracy, a fraction.
    """

    options: dict[str, Any]
    at: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: int = 0
    target: float | None = None


EMR = {"full": {"emr": {"decay_epochs": [18, 27]}}}  # as after 60 and 90 of the paper's 100 epochs
CLEAN_AMM = METHODS["amm (clean)"]

RECORDS: dict[str, Record] = {
    "at": Record(METHODS["at"]),
    "trades": Record(METHODS["trades"]),
    "mart": Record(METHODS["mart"]),
    "mail+trades": Record(
        METHODS["mail+trades"], {"full": {"mail": {"burn_in": 22, "slope": 2, "bias": 0}}}
    ),
    "sovr": Record(METHODS["sovr"]),
    "emr": Record(METHODS["emr"], EMR),
    "mart+emr": Record(METHODS["mart+emr"], EMR),
    "average-margin": Record(METHODS["average-margin (clean)"]),
    "amm": Record(CLEAN_AMM, {"small": SHORTER["cifar10-small"]["amm (clean)"]}),
    "awp+at": Record(METHODS["awp"]),
    "at-seed1": Record(METHODS["at"], seed=1),
    "at-seed2": Record(METHODS["at"], seed=2),
    "emr-seed1": Record(METHODS["emr"], EMR, seed=1),
    "emr-seed2": Record(METHODS["emr"], EMR, seed=2),
    "wrn34-emr": Record(METHODS["emr"], {"full": {**EMR["full"], "backbone": "wrn34"}}),
    "speed-43": Record(
        METHODS["n-fgsm"],
        {"full": {"epochs": 10, "batch_size": 256, "optim": {"lr": 0.2, "schedule": "one-cycle"}}},
        target=0.432,
    ),
    "speed-48": Record(
        METHODS["at"],
        {
            "full": {
                "epochs": 20,
                "batch_size": 256,
                "optim": {"lr": 0.2, "schedule": "one-cycle"},
                "ema": 0.999,
                "attack": {"steps": 4, "step_size": "3/255", "precision": "bf16"},
            }
        },
        target=0.48,
    ),
}
"""In the order in which they are made."""


def options_of(name: str, scale: str) -> dict[str, Any]:
    """The run's options of one record."""
    record = RECORDS[name]
    return {**SETTING[scale], **record.options, **record.at.get(scale, {}), "seed": record.seed}
