"""A training that is killed at random moments ends with the weights of one that is left alone.

    python -m benchmarks.kill_loop

One run of ``defense-run`` goes through undisturbed. Another one, with the same options, gets
``kill -9`` at random moments and is resumed each time. The moments are seconds after a process has
printed its plan, drawn from a fixed seed. Writes benchmarks/results/kill-loop.json; the exit code
is 0 where both runs end with the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "results" / "kill-loop.json"
SEED = 0
# all lives together last at most this share of the undisturbed training: the machine may be less
# busy by then
LIVING = 0.5
LINE = (
    "--backbone cnn --data digits --threat Linf:0.1 --epochs 6 --batch-size 64 --attack.steps 5 "
    "--ema 0.99 --augment crop --checkpoint-every 2 --eval none --name r"
)
PLAN = re.compile(r"epochs \d+, batch \d+")  # in the last line of the plan that a run prints
FINAL = ("weights-last.safetensors", "weights.safetensors", "weights-averaged.safetensors")


def main(words: list[str] | None = None) -> int:
    """Make both runs, and the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="how often to kill the run")
    parser.add_argument("--record", type=Path, default=RECORD, help="file to write")
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        quiet, killed = Path(folder) / "quiet", Path(folder) / "killed"
        seconds = run_undisturbed(quiet)
        kills = run_killed(killed, asked.kills, LIVING * seconds / asked.kills)
        hashes = [{name: digest(out / "r" / name) for name in FINAL} for out in (quiet, killed)]
        environment = json.loads((killed / "r" / "environment.json").read_text(encoding="utf-8"))
    record: dict[str, Any] = {
        "options": LINE,
        "seed": SEED,
        "kills": kills,
        "resumed": environment["resumed"],
        "undisturbed": hashes[0],
        "killed": hashes[1],
        "equal": hashes[0] == hashes[1],
        "versions": {name: version(name) for name in ("abatis", "torch")},
    }
    asked.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    verdict = "the same weights" if record["equal"] else "OTHER WEIGHTS"
    print(f"{len(kills)} kills; {verdict}; {asked.record}")
    return 0 if record["equal"] else 1


def run_undisturbed(out: Path) -> float:
    """Make the run that nothing happens to; returns the seconds of its training."""
    process = start(out)
    began = time.monotonic()
    if process.wait() != 0:
        raise SystemExit("the undisturbed run failed")
    return time.monotonic() - began


def run_killed(out: Path, count: int, longest: float) -> list[dict[str, float]]:
    """Kill the run again and again, then let it end.

    Args:
        out: holds the run folder.
        count: how often it is killed.
        longest: it lives at most so many seconds after it began to train.

    Returns:
        The kills: seconds, and the step of the newest checkpoint.
    """
    draw, kills = random.Random(SEED), []
    while len(kills) < count:
        process, patience = start(out), draw.uniform(0, longest)
        time.sleep(patience)
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself after {len(kills)} kills: more epochs")
        process.send_signal(signal.SIGKILL)
        process.wait()
        step = newest_step(out)
        kills.append({"seconds": round(patience, 3), "newest_step": step})
        print(
            f"kill {len(kills)} after {patience:.2f} s, newest checkpoint of step {step}",
            flush=True,
        )
    if start(out).wait() != 0:
        raise SystemExit("the killed run could not be resumed")
    return kills


def start(out: Path) -> subprocess.Popen[str]:
    """Start a process of the run; returns once it trains."""
    command = "from abatis.cli import run; raise SystemExit(run())"
    process = subprocess.Popen(
        [sys.executable, "-c", command, *LINE.split(), "--out", str(out), "--resume"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for line in process.stdout or ():
        if PLAN.search(line):
            return process
    raise SystemExit(f"the run printed no plan, and ended with {process.wait()}")


def newest_step(out: Path) -> int:
    """The step of the newest checkpoint that has its name, whole or not; 0 where there is none."""
    names = [path.name for path in (out / "r" / "checkpoints").glob("step-*")]
    return max((int(name[5:]) for name in names if name[5:].isdigit()), default=0)


def digest(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
