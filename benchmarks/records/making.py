"""Making one record: train, judge with AutoAttack, write what was seen and where."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.records.settings import (
    POINTS,
    RECORDS,
    TEST_IMAGES,
    WITHOUT_ACCELERATOR,
    options_of,
)

import abatis
from abatis import RunConfig, UsageError
from abatis.commands.eval import command as evaluate
from abatis.errors import Stopped
from abatis.report.eval_record import read_record
from abatis.runs.run_folder import portable_options
from abatis.system.device import pick_device
from abatis.system.files import digest

CLOCK = "clock.json"  # in the run folder: seconds of every phase so far
NUMBERS = (
    "clean_acc",
    "pgd20_acc",
    "margin_pgd20_acc",
    "autoattack_acc",
    "robust_acc",
    "robust_acc_upper",
    "verdict",
    "n",
    "interval",
    "findings",
    "weights_sha256",
)


@dataclass(frozen=True)
class Order:
    """What is asked for. epochs, points: in place of the setting's; note: goes into the record,
    such as what was tried.
    """

    name: str
    scale: str
    device: str
    data_dir: Path
    out: Path
    epochs: int | None = None
    points: int | None = None
    note: str = ""

    def config(self) -> RunConfig:
        """The run. A speed record begins anew each time: its clock cannot be stopped."""
        longer = {} if self.epochs is None else {"epochs": self.epochs}
        name = f"{self.scale}-{self.name.replace('+', '-')}" + (
            f"-{self.epochs}-epochs" if self.epochs else ""
        )
        timed = RECORDS[self.name].target is not None
        name += f"-{datetime.now(UTC):%Y%m%d-%H%M%S}" if timed else ""
        return RunConfig(
            **{
                **options_of(self.name, self.scale),
                **longer,
                "data_dir": self.data_dir,
                "device": self.device,
                "out": self.out,
                "name": name,
                "resume": not timed,
                "eval": "none",
            }
        )

    def judged(self) -> tuple[int, str]:
        """Test images to judge on, and why not all of them."""
        if self.points is not None:
            return self.points, "as asked"
        if self.scale == "full" and pick_device(self.device).type == "cpu":
            return WITHOUT_ACCELERATOR, "no accelerator"
        return POINTS[self.scale], "" if POINTS[self.scale] == TEST_IMAGES else "small scale"


def make(order: Order) -> dict[str, Any]:
    """Train what is not trained, judge what is not judged; returns the record. A run that fails is
    a record that says so.
    """
    config, record = order.config(), RECORDS[order.name]
    options = portable_options(config.to_toml())
    told: dict[str, Any] = {
        "record": order.name,
        "scale": order.scale,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "note": order.note,
        "config": options,
        "config_sha256": digest(options),
    }
    folder = config.out / str(config.name)
    try:
        with clock(folder, "training"):
            abatis.run(config)
        points, why = order.judged()
        with clock(folder, "evaluation"):
            found = judge(folder, order, points)
    except (Stopped, UsageError):
        raise
    except abatis.AbatisError as error:
        return {**told, "failed": f"{type(error).__name__}: {error.what}"}
    told |= {**environment_of(folder), **training_of(folder), **read(folder / CLOCK)}
    told |= {
        "points": found["n"],
        "of": TEST_IMAGES,
        "why_not_all": why,
        **{name: found.get(name) for name in NUMBERS},
    }
    if record.target is not None:
        told |= {"target": record.target, "reached": found["autoattack_acc"] >= record.target}
    return told


def judge(folder: Path, order: Order, points: int) -> dict[str, Any]:
    """The evaluation by ``defense eval``, beside the run; a killed one goes on where it was."""
    out = folder / f"judged-{points}"
    some = ["--subset", str(points)] if points < TEST_IMAGES else []
    if not read_record(out):
        evaluate([str(folder), "--out", str(out), "--device", order.device, *some])
    return dict(read_record(out))


@contextmanager
def clock(folder: Path, phase: str) -> Iterator[None]:
    """Add to the seconds of a phase. Training is all from before the first byte is read to the last
    weight written.
    """
    began = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        if folder.is_dir():
            spent = time.perf_counter() - began[0], time.process_time() - began[1]
            known = read(folder / CLOCK)
            for kind, seconds in zip(("wall_seconds", "processor_seconds"), spent, strict=True):
                phases = known.setdefault(kind, {})
                phases[phase] = round(phases.get(phase, 0.0) + seconds, 2)
            (folder / CLOCK).write_text(json.dumps(known) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """A JSON file, empty where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def environment_of(folder: Path) -> dict[str, Any]:
    """Versions and machine, and how the run was resumed."""
    known = read(folder / "environment.json")
    return {
        key: known.get(key)
        for key in ("device", "threads", "platform", "python", "libraries", "providers", "resumed")
    }


def training_of(folder: Path) -> dict[str, Any]:
    """What metrics.jsonl says of the last epoch and of the best one."""
    rows = [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    best = max(rows, key=lambda row: row.get("val_robust_acc", 0.0))
    return {
        "epochs": len(rows),
        "best_epoch": best["epoch"],
        "val_robust_acc": best.get("val_robust_acc"),
        "last_val_robust_acc": rows[-1].get("val_robust_acc"),
        "step_seconds": rows[-1]["seconds"],
        "peak_memory_mb": rows[-1]["peak_memory_mb"],
    }
