"""What several processes exchange in a training step, measured; and what that means for up to 1,024
GPUs, computed.

    python -m benchmarks.scaling             # from the repository's root; a minute
    python -m benchmarks.scaling --compute   # only the computed part again

Measured, in two processes on the CPU: the bytes of every exchange of one step. Counted: parameters
and floating-point operations of two large networks. Computed from both and from the ASSUMED numbers
below: how long a step takes on N GPUs. Nothing of this has run on a GPU. Writes
benchmarks/results/scaling.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from benchmarks.growth_methods import METHODS, THREAT, Point, subject
from benchmarks.growth_processes import connected
from benchmarks.scaling_page import page
from benchmarks.side_by_side import facts, flop
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from abatis.api.batch import Batch
from abatis.api.randomness import Randomness
from abatis.config.option_groups import AttackConfig
from abatis.nets.backbones import build
from abatis.nets.sharding import Sharding
from abatis.system import distributed
from abatis.testing import plan_of, step_of
from abatis.train.micro_batches import RowShare

RECORD = Path(__file__).parent / "results" / "scaling.json"
AT = Point(batch=16, steps=2)  # of what is measured
ROOT, BLOCKS = (
    ("at", "trades", "emr"),
    ("at", "trades", "mail"),
)  # of the methods that each kind of sharding allows
MEASURED = {"none": tuple(METHODS), "root": ROOT, "blocks": BLOCKS}
ASSUMED: dict[str, float] = {
    "attack_steps": 10,
    "flop_per_second": 2.0e14,  # sustained by one GPU in bfloat16, whatever the batch
    "node_gpus": 8,
    "node_bytes_per_second": 2.0e11,  # of one GPU to the others of its node, each way
    "network_bytes_per_second": 2.5e10,  # of one GPU to other nodes, each way: 200 Gbit/s each
    "latency_seconds": 2.0e-5,  # of one stage of a tree over the processes
    "small_exchanges": 2,  # of a few bytes, in every step: is all finite, does anyone stop
    "bucket_bytes": 25 * 2**20,  # what torch's DDP exchanges at once
    "gradient_bytes": 4,  # of one parameter
}
NETWORKS = {
    "WRN-70-16": {
        "backbone": "wrn70",
        "image_size": 32,
        "num_classes": 10,
        "images_per_gpu": 16,
        "global_batch": 2048,
    },
    "Swin-L": {
        "backbone": "swin_large_patch4_window7_224",
        "image_size": 224,
        "num_classes": 1000,
        "images_per_gpu": 16,
        "global_batch": 2048,
    },
}
GPUS = tuple(2**power for power in range(11))


class Exchanged(TorchDispatchMode):
    """Counts the exchanges between processes, by kind: how many, and the bytes of the whole
    tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            sizes = [
                sum(leaf.nbytes for leaf in tree_leaves(arg) if isinstance(leaf, Tensor))
                for arg in args
            ]
            kind = self.found.setdefault(
                func._schema.name.partition("::")[2].strip("_"), {"calls": 0, "bytes": 0}
            )
            kind["calls"] += 1
            kind["bytes"] += max(sizes, default=0)
        return func(*args, **(kwargs or {}))


def measured() -> list[dict[str, Any]]:
    """What two processes exchange in the third step of a method, by method and kind of sharding."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work, (folder,), nprocs=2)  # type: ignore[no-untyped-call]
        rows: list[dict[str, Any]] = json.loads(
            (Path(folder) / "0.json").read_text(encoding="utf-8")
        )
    return rows


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    with connected(rank, 2, f"file://{folder}/meet"):
        rows = [
            {"shard": shard, "method": method, "exchanged": _exchanged(method, shard)}
            for shard, methods in MEASURED.items()
            for method in methods
        ]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(rows), encoding="utf-8")


def _exchanged(name: str, shard: str) -> dict[str, dict[str, int]]:
    of, random, method = subject(AT), Randomness(0), METHODS[name]
    if shard != "none":
        of.net.sharding = Sharding(of.module, shard)
    plan = plan_of(
        *method.plugins,
        net=of.net,
        num_classes=AT.classes,
        options=method.options,
        threat=str(THREAT),
        random=random,
        attack=AttackConfig(steps=AT.steps, step_size="2/255"),
    )
    step = step_of(
        of.net, plan, torch.optim.SGD(of.module.parameters(), lr=1e-6, momentum=0.9), THREAT, random
    )
    rows = distributed.rows_of(AT.batch)
    batch = Batch(of.x, of.y, torch.arange(AT.batch)).rows(rows)
    for number in range(3):  # DDP orders its buckets behind the first step
        with Exchanged() as counting:
            step(batch, number, 0, 0.0, RowShare(rows.start, AT.batch))
    return counting.found


def counted(network: Mapping[str, Any]) -> dict[str, int]:
    """Parameters and floating-point operations of a forward pass of one image; nothing is computed
    for it.
    """
    size = network["image_size"]
    with torch.device("meta"):
        net = build(
            network["backbone"],
            num_classes=network["num_classes"],
            channels=3,
            image_size=size,
            mean=[0.5] * 3,
            std=[0.5] * 3,
        )
        image = torch.empty(1, 3, size, size)
    return {
        "parameters": sum(part.numel() for part in net.parameters()),
        "forward_flop": flop(lambda: net.eval()(image)),
    }


def gathering(size: float, gpus: int) -> float:
    """Seconds to gather a tensor of ``size`` bytes from all processes, or to scatter one: between
    nodes, then inside each.

    Each GPU brings its part from outside through its own network card: (m-1)/m of size/g for m
    nodes of g GPUs.
    """
    inside = min(gpus, int(ASSUMED["node_gpus"]))
    nodes = gpus // inside
    network = (nodes - 1) / nodes * size / inside / ASSUMED["network_bytes_per_second"]
    return network + (inside - 1) / inside * size / ASSUMED["node_bytes_per_second"] + waiting(gpus)


def waiting(gpus: int) -> float:
    """Seconds until a message has gone through a tree over all processes."""
    return math.log2(gpus) * ASSUMED["latency_seconds"]


def seconds(
    parameters: int, forward_flop: int, images: float, gpus: int, shard: str
) -> tuple[float, float]:
    """(computing, waiting for others) of one step of PGD adversarial training on so many images a
    GPU.

    none: the gradients travel, scattered and gathered, while the backward pass goes on, but for the
    last bucket. root: weights are gathered for the attack and for the update, gradients scattered
    at its end, nothing meanwhile. blocks: weights are gathered for the attack; in the update all
    travels beside computing, but for its first and last unit.
    """
    forward = images * forward_flop / ASSUMED["flop_per_second"]
    size = parameters * ASSUMED["gradient_bytes"]
    backward, once = 2 * forward, gathering(size, gpus)
    bucket = gathering(min(ASSUMED["bucket_bytes"], size), gpus)
    exposed = {
        "none": max(2 * once - backward, 2 * bucket),
        "root": 3 * once,
        "blocks": once + max(once - forward, bucket) + max(2 * once - backward, bucket),
    }[shard]
    small = 2 * waiting(gpus) * ASSUMED["small_exchanges"]
    computing = (2 * ASSUMED["attack_steps"] + 3) * forward
    return computing, (exposed + small) if gpus > 1 else 0.0


def computed(
    name: str, network: Mapping[str, Any], count: Mapping[str, int]
) -> list[dict[str, Any]]:
    """A row for each number of GPUs: efficiency with as many images a GPU, and with as many images
    in all.
    """
    rows = []
    for gpus in GPUS:
        row: dict[str, Any] = {"network": name, "gpus": gpus}
        whole = count["parameters"] * ASSUMED["gradient_bytes"]
        for shard, passes in (("none", 2), ("root", 3), ("blocks", 4)):
            row[f"sent_mb_{shard}"] = passes * (gpus - 1) / gpus * whole / 1e6
            for scale, images in (
                ("weak", network["images_per_gpu"]),
                ("strong", network["global_batch"] / gpus),
            ):
                computing, others = seconds(
                    count["parameters"], count["forward_flop"], images, gpus, shard
                )
                row[f"{scale}_{shard}"] = computing / (computing + others)
                row[f"{scale}_{shard}_seconds"] = computing + others
        rows.append(row)
    return rows


def main() -> None:
    """Measure, count, compute, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compute", action="store_true", help="leave what was measured as it is")
    only_compute = parser.parse_args().compute
    old = json.loads(RECORD.read_text(encoding="utf-8")) if only_compute else {}
    torch.set_num_threads(1)
    of = subject(AT).module
    counts = {name: counted(network) for name, network in NETWORKS.items()}
    record = {
        **facts("abatis", "torch", "timm"),
        "measured": old.get("measured")
        or {
            "network": "ResNet-8",
            "parameters": sum(part.numel() for part in of.parameters()),
            "batch": AT.batch,
            "processes": 2,
            "rows": measured(),
        },
        "assumed": ASSUMED,
        "networks": {name: {**network, **counts[name]} for name, network in NETWORKS.items()},
        "computed": [
            row
            for name, network in NETWORKS.items()
            for row in computed(name, network, counts[name])
        ],
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    RECORD.with_suffix(".md").write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
