"""Run by tests in several processes: ``python -m tests.several OUT ACCUMULATE SHARD ...`` trains on shares of batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from abatis.api.randomness import Randomness, seeded
from abatis.config import discovery
from abatis.config.plan_row import PlanRow
from abatis.config.run_config import AttackConfig
from abatis.nets.net import Net
from abatis.nets.sharding import Sharding
from abatis.runs.launch import neighbours
from abatis.system import distributed
from abatis.testing import THREAT, plan_of, step_of, tiny_batch
from abatis.train.builtin.averaging import WeightAveraging
from abatis.train.micro_batches import RowShare

STEPS = 20
PAIRS = ("mart+emr", "mail+trades", "mail+mart", "sovr+awp", "trades+awp", "amm+emr")
METHODS = ("at", *sorted(discovery.installed()), *PAIRS)
METHODS_OF = {
    "none": METHODS,
    "root": ("at", "trades", "emr", "mart+emr", "mail+trades"),
    "blocks": ("at", "trades", "mart", "mail+trades", "sovr"),
}
BATCH = 10  # two processes have 5 each, three 3, 3 and 4


def launch(count, module, *words, timeout=300, check=True):
    """``python -m module words`` as ``count`` processes that know each other; their exit codes and outputs."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            env={**os.environ, **places, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        for places in neighbours(count)
    ]
    try:
        told = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
    codes = [process.returncode for process in running]
    if check:
        assert codes == [0] * count, told
    return codes, told


def network():
    """Without batch norm, so that two processes see what one sees; smooth, so that rounding stays rounding."""
    torch.manual_seed(0)
    first, second = (
        nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Softplus()),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softplus()),
    )
    return nn.Sequential(first, second, nn.Flatten(), nn.Linear(36, 10)).double()


def trained(method, accumulate, shard="none"):
    """The weights after some steps, their averages, and the mean of the last total, of this process's rows of every batch."""
    module, random = network(), Randomness(0)
    net = Net(module)
    if shard != "none":
        net.sharding = Sharding(module, shard)
    names = [] if method == "at" else method.split("+")
    plan = plan_of(*names, net=net, num_classes=10, attack=AttackConfig(steps=2), random=random)
    averaging = WeightAveraging(module, 0.9, None if net.sharding is None else net.sharding.twin())
    plan = plan.with_trainer("averaging", averaging, PlanRow("trainer", "averaging", "", {}))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    step, rows = (
        step_of(net, plan, optimizer, THREAT, random, accumulate=accumulate),
        distributed.rows_of(BATCH),
    )
    with seeded(0, "several processes"):
        for number in range(STEPS):
            batch = tiny_batch(BATCH, 10).rows(rows)
            result = step(batch, number, 0, number / STEPS, RowShare(rows.start, BATCH))
    (whole,) = distributed.summed([result.total])
    networks = [module, averaging.averaged]
    if shard != "none":
        check_pieces(net.sharding, optimizer)
        networks = [net.sharding.gathered(network) for network in networks]
    weights = [weight.detach().flatten() for network in networks for weight in network.parameters()]
    return torch.cat([*weights, whole.flatten()])


def check_pieces(sharding, optimizer):
    """Weights, gradients and moments lie in pieces between the steps."""
    for weight in sharding.module.parameters():
        moment = optimizer.state[weight]["momentum_buffer"]
        for tensor in (weight, moment):
            assert isinstance(tensor, DTensor)
            assert tensor.to_local().numel() < tensor.numel()


def everything(accumulate, *shards):
    """By how the network is sharded and by method."""
    return {
        (shard, method): trained(method, accumulate, shard)
        for shard in shards
        for method in METHODS_OF[shard]
    }


if __name__ == "__main__":
    with distributed.joined():
        found = everything(int(sys.argv[2]), *sys.argv[3:])
        if distributed.rank() == 0:
            torch.save(found, sys.argv[1])
    os._exit(
        0
    )  # as the command line ends: torch's threads may abort when the interpreter frees them
