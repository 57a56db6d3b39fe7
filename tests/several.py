"""Run by tests in several processes: ``python -m tests.several OUT ACCUMULATE`` trains every method on shares of batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from abatis import plugins, processes
from abatis.config import AttackConfig
from abatis.contract import THREAT, smooth_network, tiny_batch
from abatis.net import Net
from abatis.randomness import Randomness, seeded
from abatis.step import Share, Step
from abatis.testing import plan_of

STEPS = 20
PAIRS = ("mart+emr", "mail+trades", "mail+mart", "sovr+awp", "trades+awp", "amm+emr")
METHODS = ("at", *sorted(plugins.installed()), *PAIRS)
BATCH = 10  # two processes have 5 each, three 3, 3 and 4


def launch(count, module, *words, timeout=300, check=True):
    """``python -m module words`` as ``count`` processes that know each other; their exit codes and outputs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            env={**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        )
        for number in range(count)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
    codes = [process.returncode for process in running]
    if check:
        assert codes == [0] * count, told
    return codes, told


def trained(method, accumulate):
    """The weights after some steps, and the mean of the last total, of this process's rows of every batch."""
    module, random = smooth_network(10), Randomness(0)
    net = Net(module)
    names = [] if method == "at" else method.split("+")
    plan = plan_of(*names, net=net, num_classes=10, attack=AttackConfig(steps=2), random=random)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    step, rows = Step(net, plan, optimizer, THREAT, random, accumulate=accumulate), processes.rows_of(BATCH)
    with seeded(0, "several processes"):
        for number in range(STEPS):
            batch = tiny_batch(BATCH, 10).rows(rows)
            result = step(batch, number, 0, number / STEPS, Share(rows.start, BATCH))
    (whole,) = processes.summed([result.total])
    return torch.cat([*(weight.detach().flatten() for weight in module.parameters()), whole.flatten()])


def everything(accumulate):
    return {method: trained(method, accumulate) for method in METHODS}


if __name__ == "__main__":
    with processes.joined():
        found = everything(int(sys.argv[2]))
        if processes.rank() == 0:
            torch.save(found, sys.argv[1])
