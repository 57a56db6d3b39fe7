"""The axis of growth.py that needs processes: a batch that 1, 2 and 4 of them share, always the
same ones.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from benchmarks.growth_methods import METHODS, Point, variant_of
from benchmarks.side_by_side import cpu_seconds, peak_bytes
from torch.multiprocessing.spawn import spawn

from abatis.system import distributed

COUNTS = (1, 2, 4)
BATCH = (
    128  # 32 images each where four share them, or the calls would cost more than what they compute
)


@dataclass(frozen=True)
class Found:
    """By method: CPU seconds of each round, of all processes together; the largest peak of one, in
    bytes.
    """

    times: dict[str, list[float]]
    peaks: dict[str, int]


def measured(rounds: int) -> dict[int, Found]:
    """By the number of processes."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (folder, rounds), nprocs=max(COUNTS))
        told = [
            json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(max(COUNTS))
        ]
    found = {}
    for count in COUNTS:
        theirs = [one[str(count)] for one in told[:count]]
        times = {
            name: [sum(each) for each in zip(*(one[name]["times"] for one in theirs), strict=True)]
            for name in METHODS
        }
        found[count] = Found(
            times, {name: max(one[name]["peak"] for one in theirs) for name in METHODS}
        )
    return found


def work(rank: int, folder: str, rounds: int) -> None:
    """What each process does, round by round, as one of so many; nothing where it is not among
    them.
    """
    torch.set_num_threads(1)
    mine: dict[int, dict[str, dict[str, Any]]] = {
        count: {name: {"times": [], "peak": 0} for name in METHODS}
        for count in COUNTS
        if rank < count
    }
    for number in range(rounds):
        for count in COUNTS[:: 1 if number % 2 == 0 else -1]:
            if rank < count:
                with connected(rank, count, f"file://{folder}/{number}-{count}"):
                    for name, kept in mine[count].items():
                        step = variant_of(
                            METHODS[name], Point(batch=BATCH), distributed.rows_of(BATCH)
                        )
                        kept["times"].append(cpu_seconds(step))
                        kept["peak"] = kept["peak"] or peak_bytes(step)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(mine))


@contextmanager
def connected(rank: int, count: int, place: str) -> Iterator[None]:
    """As one of so many processes that know each other."""
    if count == 1:
        yield
        return
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()
