"""What the commands take that train and judge nothing, beside the import of torch.

    python -m benchmarks.startup    # from the repository's root; about two minutes

Every command is a process of its own, timed by its CPU seconds at one thread. Those that build a
network are our own, which need neither timm nor torchvision. Writes benchmarks/results/startup.json
and .md.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record_files import list_versions, write_record
from benchmarks.side_by_side import Times, facts, ratio

RECORD = Path(__file__).parent / "results" / "startup.json"
ROUNDS = 7
GOAL, SHARE = 0.3, 0.4
NETWORK_SHARE = 1.5
"""Of the import of torch, for commands that build a network of ours."""
TORCH, NOTHING = "import torch", "python alone"
SCRIPT = "import sys; from abatis.cli import {0}; sys.exit({0}())"  # as the console scripts do
COMMANDS = {
    "defense-run --help": ("-c", SCRIPT.format("run"), "--help"),
    "defense-run --plugin emr --help": ("-c", SCRIPT.format("run"), "--plugin", "emr", "--help"),
    "defense registry list": ("-c", SCRIPT.format("main"), "registry", "list"),
}
DRY_RUN = "defense-run --data digits --backbone cnn --dry-run"
LOAD = "abatis.load of a ResNet-8"
WEIGHTS = Path(tempfile.gettempdir()) / "abatis-startup.safetensors"
NETWORKS = {
    DRY_RUN: ("-c", SCRIPT.format("run"), *DRY_RUN.split()[1:]),
    LOAD: (
        "-c",
        "import abatis, sys; abatis.load(sys.argv[1], backbone='resnet8', normalize='none')",
        str(WEIGHTS),
    ),
}
OTHERS = {
    "defense runs": ("-c", SCRIPT.format("main"), "runs", "."),
    "defense --help": ("-c", SCRIPT.format("main"), "--help"),
    NOTHING: ("-c", "pass"),
    TORCH: ("-c", "import torch"),
}


def main() -> None:
    """Measure and write."""
    write_weights()
    commands = COMMANDS | NETWORKS | OTHERS
    cpu, wall = measure(commands, ROUNDS)
    rows = [row(name, words, cpu, wall) for name, words in commands.items()]
    WEIGHTS.unlink()
    record = facts("abatis", "torch", "pydantic", "pydantic-settings", "rich") | {
        "threads": 1,
        "rounds": ROUNDS,
        "goal_seconds": GOAL,
        "limit_of_torch": SHARE,
        "limit_of_torch_with_a_network": NETWORK_SHARE,
        "rows": rows,
    }
    write_record(RECORD, record, page(record))


def write_weights() -> None:
    """The file that is loaded, by a process of its own."""
    program = (
        "import sys; from safetensors.torch import save_file; "
        "from abatis.nets.backbones.own_nets import OWN_NETS; "
        "from abatis.nets.backbones import build; "
        "save_file(OWN_NETS['cifar_resnet8'].build().state_dict(), sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(WEIGHTS)], check=True)


def measure(commands: Mapping[str, Sequence[str]], rounds: int) -> tuple[Times, Times]:
    """CPU and wall seconds of every command, in turn; every other round in reverse order."""
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    wall: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in list(commands)[:: 1 if number % 2 == 0 else -1]:
            seconds = once(commands[name])
            cpu[name].append(seconds[0])
            wall[name].append(seconds[1])
    return cpu, wall


def once(words: Sequence[str]) -> tuple[float, float]:
    """CPU and wall seconds of one process; what it prints is thrown away."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended - began


def imports(words: Sequence[str]) -> dict[str, float]:
    """Seconds that each top-level package took to import, what it imports itself not included."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = {}
    for line in done.stderr.splitlines()[1:]:
        own, _, module = line.removeprefix("import time:").split("|")
        package = module.strip().partition(".")[0]
        found[package] = found.get(package, 0.0) + int(own) / 1e6
    return found


def row(name: str, words: Sequence[str], cpu: Times, wall: Times) -> dict[str, Any]:
    """One command: medians, its share of torch's import, and the packages that took most of its
    imports.
    """
    packages = imports(words)
    largest = sorted(packages, key=packages.__getitem__, reverse=True)[:4]
    return {
        "command": name,
        "cpu_seconds": round(statistics.median(cpu[name]), 3),
        "cpu_seconds_least": round(min(cpu[name]), 3),
        "wall_seconds": round(statistics.median(wall[name]), 3),
        "of_torch": round(ratio(cpu, name, TORCH), 3),
        "imports_torch": "torch" in packages,
        "packages": len(packages),
        "longest_imports": {package: round(packages[package], 3) for package in largest},
    }


def page(record: Mapping[str, Any]) -> str:
    """The record as a table."""
    lines = [
        "| command | CPU s, median | CPU s, least | wall s, median | of `import torch` | imports "
        "torch | longest imports, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in record["rows"]:
        longest = ", ".join(
            f"{package} {seconds}" for package, seconds in found["longest_imports"].items()
        )
        numbers = (
            found[key] for key in ("cpu_seconds", "cpu_seconds_least", "wall_seconds", "of_torch")
        )
        lines.append(
            f"| `{found['command']}` | {' | '.join(f'{number:.3f}' for number in numbers)} "
            f"| {'yes' if found['imports_torch'] else 'no'} | {longest} |"
        )
    versions = list_versions(record)
    return (
        f"# Start-up\n\n{record['date']}, {record['machine']}, one thread, {versions}. Processes "
        f"in turn, {record['rounds']} "
        "rounds; the share is the median of the shares within each round. The aim is "
        f"{record['goal_seconds']} s and at most "
        f"{record['limit_of_torch']} of `import torch`, and at most "
        f"{record['limit_of_torch_with_a_network']} for the two that build a network. Wall time "
        "counts whatever else the machine did. Import times are those "
        "of one run, of a package without what it imports.\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
