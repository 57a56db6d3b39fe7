"""Two checkouts of the project compute the same numbers, to the last bit.

    python -m benchmarks.same_numbers OLD NEW
    python -m benchmarks.same_numbers OLD NEW --work FOLDER --only at mail-trades

Both make the same small seeded runs by ``python -m abatis run``: every method, pairs of methods,
and options that change a step. Compared exactly: the tensors of all weights and checkpoints, and
the numbers of checkpoints, metrics.jsonl and eval.json, without times and versions. Text may
differ. NEW also goes on with a run that OLD began, and judges its network. Writes
benchmarks/results/same-numbers.json; the exit code is 0 where all is equal.

With ``--work`` the runs of OLD stay in that folder, and serve again while OLD is at that commit
and its code has no uncommitted changes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

RECORD = Path(__file__).parent / "results" / "same-numbers.json"
SHOWN = 20  # differences of a run that are listed
LEFT_OUT = {"seconds", "peak_memory_mb", "versions"}
TEXTS = {"weights_sha256"}  # that count as numbers

COMMON = "--data digits --backbone cnn --batch-size 32 --attack.steps 2 --device cpu --quiet"
# used where a run does not say otherwise:
USUAL = {"--limit": "120", "--epochs": "2", "--threat": "Linf:0.1", "--eval": "none"}
RUNS = {
    "at": "--eval quick",
    "amm": "--plugin amm --use attacker=none --amm.weight 1 --optim.lr 0.01 --eval quick",
    "average-margin": "--plugin average-margin --use attacker=none",
    "awp": "--plugin awp --awp.warmup 1 --eval quick",
    "emr": "--plugin emr --emr.decay-epochs 2",
    "fast": "--plugin fast --fast.guard-every 2 --fast.patience 100 --eval quick",
    "gairat": "--plugin gairat --gairat.burn-in 1",
    "input-gradient": "--plugin input-gradient",
    "jacobian": "--plugin jacobian",
    "mail": "--plugin mail --mail.burn-in 1 --eval quick",
    "mart": "--plugin mart",
    "sovr": "--plugin sovr",
    "trades": "--plugin trades --eval quick",
    "mart-emr": "--plugin mart --plugin emr",
    "mail-trades": "--plugin mail --plugin trades --mail.burn-in 0",
    "emr-awp": "--plugin emr --plugin awp",
    "n-fgsm": "--plugin fast --fast.variant n-fgsm",
    "sovr-beta": "--plugin sovr --sovr.beta 6",
    "ema": "--ema 0.9 --augment crop --eval quick",
    "accumulate": "--accumulate 2",
    "accumulate-awp": "--plugin awp --plugin trades --accumulate 2",
    "mixup": "--mix.mixup 0.2 --mix.smoothing 0.1",
    "l2": "--threat L2:0.5 --eval quick",
    "adamw": "--optim.name adamw --optim.lr 1e-3 --optim.schedule cosine --clip-grad 1",
    "apgd": "--use attacker=apgd",
    "standard": "--limit 200 --epochs 4 --optim.schedule one-cycle --eval standard",
}
EARLY = "--limit 1000 --threat Linf:0.15 --epochs 1"  # 251 test images, half of them robust
RESUMED = "--limit 1000 --threat Linf:0.15 --epochs 2 --resume"
JUDGED = "--ladder quick --seed 1 --quiet"
MORE = {"resumed": f"OLD: {EARLY}; {RESUMED}", "judged": f"OLD: {EARLY}; defense eval {JUDGED}"}


class Failed(Exception):
    """A command of one of the checkouts did not end with 0."""


FOUND = """
import sys
from importlib.util import find_spec
from pathlib import Path
for folder in map(Path, sys.argv[1:]):
    found = Path(find_spec(folder.name).origin).parent
    if not found.samefile(folder):
        sys.exit(f"{folder.name} is taken from {found}, not from {folder}")
"""


class Side:
    """One of the two checkouts, with the folder of its runs."""

    def __init__(self, name: str, checkout: Path, work: Path, *, keep: bool) -> None:
        self.name, self.checkout, self.made = name, checkout, set[str]()
        commit = self.git("rev-parse", "HEAD")
        uncommitted = bool(self.git("status", "--porcelain", "--", "core", "plugins"))
        self.facts = {"commit": commit, "uncommitted": uncommitted}
        self.keep = keep and not uncommitted
        self.folder = work / (f"{name}-{commit[:12]}" if self.keep else name)
        self.folder.mkdir(parents=True, exist_ok=True)
        sources = [checkout / "core", *sorted(checkout.glob("plugins/*/src"))]
        path = os.pathsep.join(map(str, sources))
        self.environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        modules = [init.parent for source in sources for init in source.glob("*/__init__.py")]
        self.python("-c", FOUND, *map(str, modules))

    def git(self, *words: str) -> str:
        """What git says in this checkout."""
        words = ("git", "-C", str(self.checkout), *words)
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def python(self, *words: str) -> None:
        """Run Python with the sources of this checkout, in the folder of its runs."""
        words = (sys.executable, "-P", *words)
        place: dict[str, Any] = {"cwd": self.folder, "env": self.environment}
        ended = subprocess.run(words, capture_output=True, text=True, **place)
        if ended.returncode != 0:
            said = (ended.stderr.strip() or ended.stdout.strip()).replace(f"{self.checkout}/", "")
            last = " | ".join(said.splitlines()[-4:])
            raise Failed(f"{self.name} ended with {ended.returncode}: {last}")

    def make(self, name: str, words: list[str], start: Path | None = None, into: str = "") -> Path:
        """The folder that abatis makes with these words, from a copy of ``start`` in ``into``."""
        folder, note = self.folder / name, self.folder / f"{name}.json"
        told = json.dumps({"words": words, "early": EARLY, "torch": torch.__version__})
        if name in self.made or (self.keep and note.exists() and note.read_text() == told):
            return folder
        note.unlink(missing_ok=True)
        for stale in (name, into or name):
            shutil.rmtree(self.folder / stale, ignore_errors=True)
        if start:
            shutil.copytree(start, self.folder / into)
        self.python("-m", "abatis", *words)
        note.write_text(told)
        self.made.add(name)
        return folder


def main() -> int:
    """All rows, the record and the table."""
    names = [*RUNS, *MORE]
    parser = argparse.ArgumentParser(description="Do two checkouts compute the same numbers?")
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("new", type=Path, help="another")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--work", type=Path, help="keeps the runs; those of OLD serve again")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (asked.work or Path(temporary)).resolve()
        old = Side("old", asked.old.resolve(), work, keep=asked.work is not None)
        new = Side("new", asked.new.resolve(), work, keep=False)
        print(f"{'run':24}{'tensors':>8}{'numbers':>9}  differences")
        rows = [row(name, old, new) for name in asked.only]
    equal = not any(row["different"] for row in rows)
    sides = {side.name: side.facts for side in (old, new)}
    machine = {"machine": platform.machine(), "processors": os.cpu_count(), "threads": 1}
    runs = {"common": COMMON, "usual": USUAL, "equal": equal, "rows": rows}
    record = {**sides, "torch": torch.__version__, **machine, **runs}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("the same numbers" if equal else "OTHER NUMBERS", f"in {len(rows)} runs; {asked.out}")
    return 0 if equal else 1


def row(name: str, old: Side, new: Side) -> dict[str, Any]:
    """One run by both, compared and printed."""
    found: list[dict[str, Any]] = [{}, {}]
    unlike: list[str] = []
    for place, side in enumerate((old, new)):
        try:
            found[place] = contents(made(name, side, old))
        except Failed as failure:
            unlike.append(str(failure))
    if not unlike:
        unlike = differences(*found) if found[0] else ["nothing to compare"]
    tensors = sum(path.startswith("tensor ") for path in found[0])
    numbers = len(found[0]) - tensors
    print(f"{name:24}{tensors:8}{numbers:9}  {len(unlike) or '-'}", flush=True)
    for line in unlike[:SHOWN]:
        print(f"    {line}", flush=True)
    return {
        "run": name,
        "words": {**RUNS, **MORE}[name],
        "tensors": tensors,
        "numbers": numbers,
        "sha256": hashlib.sha256(repr(sorted(found[0].items())).encode()).hexdigest(),
        "different": len(unlike),
        "differences": unlike[:SHOWN],
    }


def made(name: str, side: Side, old: Side) -> Path:
    """The folder of a run by ``side``; what it starts from is made by ``old``."""
    if name in RUNS:
        return side.make(name, training(name, RUNS[name]))
    early = old.make("early", training("early", EARLY))
    if name == "resumed":
        return side.make(name, training(name, RESUMED), early, into=name)
    return side.make(name, ["eval", "copy", *JUDGED.split(), "--out", name], early, into="copy")


def training(name: str, words: str) -> list[str]:
    """The words of a run after ``python -m abatis``."""
    given = words.split()
    usual = [word for pair in USUAL.items() if pair[0] not in given for word in pair]
    return ["run", *COMMON.split(), *usual, *given, "--out", ".", "--name", name]


def contents(folder: Path) -> dict[str, Any]:
    """What is compared of a run folder, by path: digests of tensors, and numbers."""
    found: dict[str, Any] = {}
    metrics, judgement = folder / "metrics.jsonl", folder / "eval.json"
    if metrics.exists():
        lines = metrics.read_text(encoding="utf-8").splitlines()
        found.update(leaves([json.loads(line) for line in lines], metrics.name))
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("checkpoints/step-*/*")]):
        where = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found.update(leaves(dict(sorted(load_file(path).items())), where))
        elif path.name == "state.pt":
            found.update(leaves(torch.load(path, weights_only=True), where))
    if judgement.exists():
        found.update(leaves(json.loads(judgement.read_text(encoding="utf-8")), judgement.name))
    return found


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each tensor and each number in ``value``, with its path."""
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in LEFT_OUT:
                yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, torch.Tensor):
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        told = f"{path} {value.dtype} {tuple(value.shape)} ".encode()
        yield f"tensor {path}", hashlib.sha256(told + data).hexdigest()
    elif isinstance(value, int | float) or path.rpartition("/")[2] in TEXTS:
        yield path, value


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not equal, a line a path; NaN is like NaN."""
    lines = []
    for path in dict.fromkeys([*before, *after]):
        old, new = before.get(path, "absent"), after.get(path, "absent")
        if old != new and (old == old or new == new):
            lines.append(f"{path}: {str(old)[:24]}, now {str(new)[:24]}")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
