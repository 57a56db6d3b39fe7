"""Training on shares of batches, which tests start in several processes.

python -m tests.several OUT ACCUMULATE SHARD ...
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from abatis.api.randomness import Randomness, seeded
from abatis.api.run import Run
from abatis.config.option_groups import AttackConfig, MixConfig
from abatis.config.plan_row import PlanRow
from abatis.nets.net import Net
from abatis.nets.sharding import Sharding
from abatis.runs.launch import make_environments
from abatis.system import distributed
from abatis.testing import THREAT, add_averaging, plan_of, step_of, tiny_batch
from abatis.train.builtin.mixing import Mixing
from abatis.train.micro_batches import RowShare
from tests.helpers import our_plugins

STEPS = 20
PAIRS = ("mart+emr", "mail+trades", "mail+mart", "sovr+awp", "trades+awp", "amm+emr")
METHODS = ("at", *our_plugins(), *PAIRS)
METHODS_OF = {
    "none": (*METHODS, "mixing"),
    "root": ("at", "trades", "emr", "mart+emr", "mail+trades"),
    "blocks": ("at", "trades", "mart", "mail+trades", "sovr"),
}
BATCH = 10  # two processes have 5 each, three 3, 3 and 4


def launch(count, module, *words, timeout=300, check=True):
    """Run ``python -m module words`` as ``count`` connected processes; exit codes and outputs."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            env={**os.environ, **places, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        for places in make_environments(count)
    ]
    try:
        outputs = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
    codes = [process.returncode for process in running]
    if check:
        assert codes == [0] * count, outputs
    return codes, outputs


def network():
    """Make a network without batch norm, so that several processes compute what one computes."""
    torch.manual_seed(0)
    first, second = (
        nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Softplus()),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softplus()),
    )
    return nn.Sequential(first, second, nn.Flatten(), nn.Linear(36, 10)).double()


def train(method, accumulate, shard="none"):
    """Train on this process's rows of every batch.

    Returns the weights after some steps, their averages, and the sum of the last total over the
    processes, in one vector.
    """
    module, random = network(), Randomness(0)
    net = Net(module)
    if shard != "none":
        net.sharding = Sharding(module, shard)
    names = [] if method in ("at", "mixing") else method.split("+")
    plan = plan_of(*names, net=net, num_classes=10, attack=AttackConfig(steps=2), random=random)
    if method == "mixing":
        plan = add_mixing(plan, random)
    twin = None if net.sharding is None else net.sharding.make_twin()
    plan, averaged = add_averaging(plan, module, 0.9, twin)
    optimizer = torch.optim.SGD(net.list_parameters(), lr=0.02, momentum=0.9)
    step = step_of(net, plan, optimizer, THREAT, random, accumulate=accumulate)
    rows = distributed.rows_of(BATCH)
    with seeded(0, "several processes"):
        for number in range(STEPS):
            batch = tiny_batch(BATCH, 10).rows(rows)
            result = step(batch, number, 0, number / STEPS, RowShare(rows.start, BATCH))
    (whole,) = distributed.sum_over_processes([result.total])
    networks = [module, averaged, *net.list_modules()[1:]]
    if shard != "none":
        check_pieces(net.sharding, optimizer)
        networks = [net.sharding.gather(network) for network in networks]
    weights = [weight.detach().flatten() for network in networks for weight in network.parameters()]
    return torch.cat([*weights, whole.flatten()])


def add_mixing(plan, random):
    """Mix images with partners that other processes have."""
    run = Run(None, 10, 1, STEPS, THREAT, torch.device("cpu"), AttackConfig(), random, {}, BATCH)
    mixing = Mixing(MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1), run)
    return plan.with_trainer("mixing", mixing, PlanRow("trainer", "mixing", "", {}), first=True)


def check_pieces(sharding, optimizer):
    """Check that weights and moments are sharded between the steps."""
    for weight in sharding.module.parameters():
        moment = optimizer.state[weight]["momentum_buffer"]
        for tensor in (weight, moment):
            assert isinstance(tensor, DTensor)
            assert tensor.to_local().numel() < tensor.numel()


def train_all(accumulate, *shards):
    """Train by every method; returns the weights by shard and method."""
    return {
        (shard, method): train(method, accumulate, shard)
        for shard in shards
        for method in METHODS_OF[shard]
    }


if __name__ == "__main__":
    with distributed.connect():
        found = train_all(int(sys.argv[2]), *sys.argv[3:])
        if distributed.rank() == 0:
            torch.save(found, sys.argv[1])
    # as the command line ends: torch's threads may abort when the interpreter frees them
    os._exit(0)
