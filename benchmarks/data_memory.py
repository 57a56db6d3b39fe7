"""Time and memory of opening an .npz file of 200,000 and of 1,000,000 images, all or some of them.

    python -m benchmarks.data_memory    # from the repository's root; some minutes, 3.1 GB of disk

Every measurement is a process of its own. Writes benchmarks/results/data-memory.json and .md.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.record_files import list_versions, write_record
from benchmarks.side_by_side import facts

from abatis.data import DataRequest, describe, open_data

RECORD = Path(__file__).parent / "results" / "data-memory.json"
SIDE, TESTED = 32, 10_000
ROUNDS = {200_000: 5, 1_000_000: 1}
"""By the number of training images."""
GOAL = 1.1
PLAN, NUMPY = "plan", "numpy"
"""What is read for a plan; and numpy.load of all four arrays, with which the others are compared.
"""
WAYS = (PLAN, "1000", "all", NUMPY)


def main() -> None:
    """Measure and write; with the words FILE and WAY measure one way in this process."""
    if len(sys.argv) == 3:
        print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count, rounds in ROUNDS.items():
            path = write(Path(folder, f"{count}.npz"), count)
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for number in range(rounds):
                for way in WAYS[:: 1 if number % 2 == 0 else -1]:
                    found[way].append(once(path, way))
            rows += [summarise(count, way, found) for way in WAYS]
            path.unlink()
    record = facts("abatis", "torch", "numpy") | {
        "threads": 1,
        "rounds": {str(count): rounds for count, rounds in ROUNDS.items()},
        "goal_of_bytes_used": GOAL,
        "rows": rows,
    }
    write_record(RECORD, record, page(record))


def write(path: Path, count: int) -> Path:
    """A file of so many random training images and 10,000 test images, written block by block."""
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for part, number in (("train", count), ("test", TESTED)):
            with archive.open(f"x_{part}.npy", "w", force_zip64=True) as file:
                shape = (number, SIDE, SIDE, 3)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
                for start in range(0, number, TESTED):
                    some = min(TESTED, number - start)
                    file.write(draw.integers(0, 256, (some, *shape[1:]), dtype=np.uint8).data)
            with archive.open(f"y_{part}.npy", "w") as file:
                np.lib.format.write_array(file, np.arange(number) % 10)
    return path


def once(path: Path, way: str) -> dict[str, Any]:
    """Measure one way in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data_memory", str(path), way],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return parse(done.stdout)


def parse(printed: str) -> dict[str, Any]:
    """What a process printed last."""
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def measure(path: Path, way: str) -> dict[str, Any]:
    """CPU seconds, the most memory that came on top, and the bytes of the images that are used."""
    with tempfile.TemporaryDirectory() as folder:  # what is loaded at the first use is loaded
        open_data(DataRequest(f"npz:{write(Path(folder, 'small.npz'), 100)}"))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before, cpu = read_status("VmRSS"), seconds()
    used = use(path, way)
    return {
        "cpu_seconds": seconds() - cpu,
        "peak_bytes": read_status("VmHWM") - before,
        "used_bytes": used,
    }


def use(path: Path, way: str) -> int:
    """Open the data one way; returns the bytes of the images that are used."""
    size = SIDE * SIDE * 3
    if way == NUMPY:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return sum(array.nbytes for array in arrays.values())
    request = DataRequest(f"npz:{path}")
    if way == PLAN:
        describe(DataRequest(f"npz:{path}", measure=False))
        return 0
    if way != "all":
        request = DataRequest(f"npz:{path}", limit=int(way))
    data = open_data(request)
    torch.cat([data.train.labels, data.test.labels])
    return (data.places + len(data.test)) * size


def read_status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


def seconds() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def summarise(count: int, way: str, found: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of one way, and of its shares of numpy's time."""
    cpu = [one["cpu_seconds"] for one in found[way]]
    shares = [mine / one["cpu_seconds"] for mine, one in zip(cpu, found[NUMPY], strict=True)]
    peak = statistics.median(one["peak_bytes"] for one in found[way])
    used = found[way][0]["used_bytes"]
    return {
        "images": count,
        "way": way,
        "cpu_seconds": round(statistics.median(cpu), 3),
        "of_numpy": round(statistics.median(shares), 3),
        "peak_megabytes": round(peak / 1e6, 1),
        "used_megabytes": round(used / 1e6, 1),
        "of_used": round(peak / used, 3) if used else None,
    }


NAMES = {PLAN: "a plan", "1000": "`--limit 1000`", "all": "all", NUMPY: "`numpy.load` alone"}


def page(record: Mapping[str, Any]) -> str:
    """The record as a table."""
    lines = [
        "| training images | what is opened | CPU s, median | of `numpy.load` | peak, MB | images "
        "used, MB | peak of used |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in record["rows"]:
        share = "" if found["of_used"] is None else f"{found['of_used']:.2f}"
        lines.append(
            f"| {found['images']:,} | {NAMES[found['way']]} | {found['cpu_seconds']:.2f} "
            f"| {found['of_numpy']:.2f} | {found['peak_megabytes']:.1f} "
            f"| {found['used_megabytes']:.1f} | {share} |"
        )
    versions = list_versions(record)
    return (
        f"# Memory of data\n\n{record['date']}, {record['machine']}, one thread, {versions}. An "
        f"uncompressed .npz file of random images of {SIDE} x {SIDE} x 3 bytes, and {TESTED:,} "
        f"test images. Processes in turn, {' and '.join(map(str, record['rounds'].values()))} "
        "rounds, medians; shares are medians of the shares within each round. The peak is the "
        "most resident memory that came on top of what the process held before; what it had freed "
        "is used first and not seen. Mean and standard deviation of all training images are "
        "measured, and, up to 200,000 images, each compared with the test images. The "
        f"goal is {record['goal_of_bytes_used']} times the bytes used where all images are.\n\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
