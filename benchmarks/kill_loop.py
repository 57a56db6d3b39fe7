"""A training that is killed at random moments, again and again, ends with the weights of one that
is left alone.

    python benchmarks/kill_loop.py

One run of ``defense-run`` goes through undisturbed. Another, with the same options, gets kill -9 at
``KILLS`` random moments and is resumed each time. The moments are seconds after a process has said
what it trains, drawn from a fixed seed. Writes benchmarks/results/kill-loop.json; the exit code is
0 where both runs end with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "results" / "kill-loop.json"
KILLS, SEED = 20, 0
# of the undisturbed training's time, for all lives together at most: the machine may be less busy
# by then
LIVING = 0.5
LINE = (
    "--backbone cnn --data digits --threat Linf:0.1 --epochs 6 --batch-size 64 --attack.steps 5 "
    "--ema 0.99 --augment crop "
    "--checkpoint-every 2 --eval none --name r"
)
FINAL = ("weights-last.safetensors", "weights.safetensors", "weights-averaged.safetensors")


def main() -> int:
    """Both runs, and the record."""
    with tempfile.TemporaryDirectory() as folder:
        quiet, killed = Path(folder) / "quiet", Path(folder) / "killed"
        seconds = undisturbed(quiet)
        kills = loop(killed, LIVING * seconds / KILLS)
        hashes = [{name: digest(out / "r" / name) for name in FINAL} for out in (quiet, killed)]
        resumed = json.loads((killed / "r" / "environment.json").read_text(encoding="utf-8"))[
            "resumed"
        ]
    record: dict[str, Any] = {
        "options": LINE,
        "seed": SEED,
        "kills": kills,
        "resumed": resumed,
        "undisturbed": hashes[0],
        "killed": hashes[1],
        "equal": hashes[0] == hashes[1],
        "versions": versions(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(kills)} kills; {'the same weights' if record['equal'] else 'OTHER WEIGHTS'}; "
        f"{RECORD}"
    )
    return 0 if record["equal"] and len(kills) == KILLS else 1


def undisturbed(out: Path) -> float:
    """The run that nothing happens to; returns the seconds of its training."""
    process = started(out)
    began = time.monotonic()
    if process.wait() != 0:
        raise SystemExit("the undisturbed run failed")
    return time.monotonic() - began


def loop(out: Path, longest: float) -> list[dict[str, float]]:
    """Kill the run KILLS times, at most ``longest`` seconds after it began to train, then let it
    end; returns the kills.
    """
    draw, kills = random.Random(SEED), []
    while len(kills) < KILLS:
        process, patience = started(out), draw.uniform(0, longest)
        time.sleep(patience)
        if process.poll() is not None:
            raise SystemExit(
                f"the run ended by itself after {len(kills)} kills: give it more epochs"
            )
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills.append({"seconds": round(patience, 3), "newest_step": newest(out)})
        print(
            f"kill {len(kills)} after {patience:.2f} s, newest checkpoint of step "
            f"{kills[-1]['newest_step']}",
            flush=True,
        )
    if started(out).wait() != 0:
        raise SystemExit("the killed run could not be resumed")
    return kills


def started(out: Path) -> subprocess.Popen[str]:
    """A process of the run, once it trains."""
    words = [
        sys.executable,
        "-c",
        "from abatis.cli import run; raise SystemExit(run())",
        *LINE.split(),
        "--out",
        str(out),
        "--resume",
    ]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    for line in process.stdout or ():
        if " epochs, batch " in line:  # the last line of the plan
            break
    return process


def newest(out: Path) -> int:
    """The step of the newest checkpoint that has its name, whole or not; 0 where there is none."""
    names = [
        path.name for path in (out / "r" / "checkpoints").glob("step-*") if path.name[5:].isdigit()
    ]
    return max((int(name[5:]) for name in names), default=0)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("abatis", "torch")}


if __name__ == "__main__":
    raise SystemExit(main())
