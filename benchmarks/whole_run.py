"""Where the time of a whole run goes: `make demo`, and one epoch of a ResNet-8.

    python -m benchmarks.whole_run    # from the repository's root; some minutes

Every run is a process of its own, and CPU seconds are counted, those of its child processes
included. Writes benchmarks/results/whole-run.json and .md.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.record_files import list_versions, write_record

RECORD = Path(__file__).parent / "results" / "whole-run.json"
DEMO = Path(__file__).parents[1] / "demo.toml"
ROUNDS = 1
SHOWN, CANDIDATE = 0.002, 0.05
IMAGES, TESTED = 5000, 500
RUNS = {
    "make demo": ["--config", str(DEMO)],
    "ResNet-8, one epoch": [
        *("--backbone", "resnet8", "--data", "npz:images.npz", "--threat", "Linf:0.1"),
        *("--epochs", "1", "--subset", "100", "--augment", "crop-flip"),
    ],
}
TRAINING = ("attack", "update")
DIAGNOSTICS = (
    "run_output_tests",
    "run_white_box",
    "run_gradient_tests",
    "run_gradient_attack_tests",
    "measure_curve",
    "grade_radii",
    "run_mode_test",
    "run_training_tests",
    "run_other_attack_tests",
    "run_searches",
    "grade_unseen",
)
"""Functions of ``abatis.evaluate.masking.diagnosis``, each some of its tests."""


class Clock:
    """CPU seconds of stages; a stage inside another is not counted there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._last = used()

    def switch(self, stage: str | None) -> None:
        """Begin a stage inside the present one; with None end the present one."""
        now = used()
        if self._open:
            before = self.seconds.get(self._open[-1], 0.0)
            self.seconds[self._open[-1]] = before + now - self._last
        self._last = now
        if stage is None:
            self._open.pop()
        else:
            self._open.append(stage)

    def is_inside(self, prefix: str) -> bool:
        """Is a stage open whose name begins so?"""
        return any(stage.startswith(prefix) for stage in self._open)

    def watch(self, place: Any, name: str, stage: str) -> None:
        """Count the calls of a function, by a name of a module or class, as a stage."""
        function = getattr(place, name)

        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Any:
            self.switch(stage)
            try:
                return function(*args, **options)
            finally:
                self.switch(None)

        setattr(place, name, watched)

    def watch_attacks(self, judge: Any) -> None:
        """Count every attack of the evaluation by its name, but for those of a diagnostic."""
        function = judge.run_attack

        @functools.wraps(function)
        def watched(
            self_: Any, name: str, attack: Any, robust: Any, label: str | None = None
        ) -> Any:
            if self.is_inside("evaluation, masking") or not self.is_inside("evaluation"):
                return function(self_, name, attack, robust, label)
            self.switch(f"evaluation, {label or name}")
            try:
                return function(self_, name, attack, robust, label)
            finally:
                self.switch(None)

        judge.run_attack = watched

    def watch_batches(self, split: Any) -> None:
        """Count what a split does to make the training batches as data."""
        function = split.train_batches

        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Iterator[Any]:
            batches = function(*args, **options)
            while True:
                self.switch("data")
                try:
                    batch = next(batches, None)
                finally:
                    self.switch(None)
                if batch is None:
                    return
                yield batch

        split.train_batches = watched


def main() -> None:
    """Measure and write; with the words of a run make it in this process."""
    if len(sys.argv) > 1:
        make_run(sys.argv[1:])
        return
    from benchmarks.side_by_side import facts

    found = {name: [once(words) for _ in range(ROUNDS)] for name, words in RUNS.items()}
    record = facts("abatis", "torch") | {
        "threads": 1,
        "rounds": ROUNDS,
        "runs": {name: summarise(rounds) for name, rounds in found.items()},
    }
    write_record(RECORD, record, page(record))


def once(words: list[str]) -> dict[str, float]:
    """CPU seconds of the stages of one run, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "images.npz"))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.whole_run", *words, "--quiet"],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(DEMO.parent)},
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_images(path: Path) -> None:
    """Digits of 32x32 pixels in three colours, with noise: no download, and something to learn."""
    import numpy as np
    from sklearn.datasets import load_digits

    draw = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    arrays = {}
    for part, count in (("train", IMAGES), ("test", TESTED)):
        chosen = draw.integers(0, len(labels), count)
        large = images[chosen].reshape(-1, 8, 8).repeat(4, 1).repeat(4, 2) * 12
        noise = draw.integers(0, 60, (count, 32, 32, 3))
        arrays[f"x_{part}"] = (large[..., None] + noise).astype(np.uint8)
        arrays[f"y_{part}"] = labels[chosen]
    np.savez(path, **arrays)


def used() -> float:
    """CPU seconds of this process and of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


def make_run(words: list[str]) -> None:
    """Make a run, and print the seconds of its stages."""
    from abatis.config.command_line import parse_run
    from abatis.data.arrays import ArraySplit
    from abatis.evaluate import evaluation, examination
    from abatis.evaluate.judge import Judge
    from abatis.evaluate.masking import diagnosis
    from abatis.runs import runner
    from abatis.runs.run import run
    from abatis.train.micro_batches import MicroBatches
    from abatis.train.saving import Saver
    from abatis.train.step import Step

    clock = Clock()
    clock.seconds["import"] = used()
    clock.switch("rest")
    clock.watch(runner, "open_run_data", "data")
    clock.watch(runner, "prepare", "plan")
    clock.watch(runner, "_validate", "validation")
    clock.watch(runner, "_judge", "evaluation, rest")
    clock.watch(runner, "write_report", "report")
    clock.watch(Step, "__call__", "update")
    clock.watch(MicroBatches, "_attack", "attack")
    clock.watch(Saver, "save", "checkpoints")
    clock.watch(examination, "_measure_margins", "evaluation, margins")
    clock.watch(evaluation, "draw_pictures", "evaluation, pictures")
    clock.watch(evaluation, "ask_stranger", "evaluation, second process")
    for name in DIAGNOSTICS:
        clock.watch(diagnosis, name, f"evaluation, masking: {name}")
    clock.watch_attacks(Judge)
    clock.watch_batches(ArraySplit)
    config = parse_run(words)
    assert config is not None
    run(config)
    clock.switch(None)
    print(json.dumps(clock.seconds))


def summarise(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the seconds and of the shares, the largest first."""
    stages = {stage for one in rounds for stage in one}

    def find_share(stage: str) -> float:
        return statistics.median(one.get(stage, 0.0) / sum(one.values()) for one in rounds)

    seconds = {stage: statistics.median(one.get(stage, 0.0) for one in rounds) for stage in stages}
    ordered = sorted(stages, key=seconds.__getitem__, reverse=True)
    return {
        "cpu_seconds": round(statistics.median(sum(one.values()) for one in rounds), 2),
        "stages": {
            stage: {"cpu_seconds": round(seconds[stage], 3), "share": round(find_share(stage), 4)}
            for stage in ordered
        },
    }


def page(record: Mapping[str, Any]) -> str:
    """The record as tables."""
    parts = []
    for name, found in record["runs"].items():
        lines = ["| stage | CPU s, median | share |", "|---|---|---|"]
        for stage, one in found["stages"].items():
            if one["share"] < SHOWN:
                continue
            candidate = one["share"] > CANDIDATE and stage not in TRAINING
            share = f"{one['share']:.1%}"
            lines.append(
                f"| {stage} | {one['cpu_seconds']:.2f} | {f'**{share}**' if candidate else share} |"
            )
        parts.append(f"## {name}: {found['cpu_seconds']:.0f} CPU seconds\n\n" + "\n".join(lines))
    versions = list_versions(record)
    return (
        f"# Where the time of a run goes\n\n{record['date']}, {record['machine']}, one thread, "
        f"{versions}. {record['rounds']} run(s) each, in processes of their own. A stage inside "
        "another is not counted there: `update` is a step without its attack. Nothing is compiled "
        "(`--compile none`). `second process` is the network asked again from outside. Bold: over "
        f"{CANDIDATE:.0%} and neither attack nor update. Stages below {SHOWN:.1%} are in the .json "
        f"file. The ResNet-8 trains on {IMAGES:,} images of 32 x 32 pixels, and is judged on "
        "100.\n\n" + "\n\n".join(parts) + "\n"
    )


if __name__ == "__main__":
    main()
