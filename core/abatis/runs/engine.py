"""How a run's forward passes are made, on which device, and what a user should know about it."""

from __future__ import annotations

import torch
from torch import Tensor

from abatis.api.randomness import Randomness
from abatis.config.plan_row import PlanRow
from abatis.config.run_config import RunConfig
from abatis.data import DataInfo
from abatis.errors import UsageError
from abatis.nets.layout import CHANNELS_LAST, CONTIGUOUS
from abatis.nets.layout_timing import choose_layout
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.system.bf16_speed import measure_bf16
from abatis.system.device import describe_build, describe_device
from abatis.system.unseen_gpu import find_unseen_gpu
from abatis.train.plan import Plan
from abatis.train.sharding_checks import check_sharding

COMPILED = {
    "none": "none",
    "attack": "attack: each of its forward passes by itself",
    "step": "step: the forward passes of the losses",
    "both": "attack and step: each forward pass by itself",
}
"""What ``--compile`` captures, in words."""
SLOWER = 1.1  # from here on, bfloat16 counts as slower than float32


def set_up_engine(config: RunConfig, net: Net, plan: Plan, info: DataInfo, timed: bool) -> PlanRow:
    """Decide how forward passes are made; returns the plan's row of that.

    Args:
        config: what was asked for.
        net: the network.
        plan: of the run.
        info: the facts of the data.
        timed: may something be measured?
    """
    _check_engine(config, net, plan)
    device = next(net.module.parameters()).device
    like = torch.empty(2, info.channels, info.image_size, info.image_size, device=device)
    # A folded norm reads the weights of its convolution. Those are sharded in the passes of a
    # loss, where blocks are sharded.
    with net.whole():
        tuned = net.tune(
            Randomness(config.seed).uniform("engine", like),
            config.fold and config.shard != "blocks",
            layout=CONTIGUOUS if config.layout == CONTIGUOUS else CHANNELS_LAST,
        )
    if timed:
        said = _time_layouts(config, net, like)
        tuned["layout"] = net.layout + said
    if device.type == "cuda":
        net.keep_layout()
    net.compile(
        attack=config.compile in ("attack", "both"), step=config.compile in ("step", "both")
    )
    choices: dict[str, object] = {
        "device": describe_device(device),
        "build": describe_build(),
        **tuned,
    }
    if config.grad_checkpointing:
        choices |= {"activations": "recomputed"}
    choices |= {
        "attack": _describe_precision(net.attack_precision, config, device),
        "step": _describe_precision(config.precision, config, device),
        "compile": COMPILED[config.compile],
    }
    if config.deterministic:
        choices |= {"deterministic": True}
    if config.shard != "none" or config.sync_bn:
        choices |= {"shard": config.shard, "sync_bn": config.sync_bn}
    return PlanRow("engine", "torch", torch.__version__, choices)


def _time_layouts(config: RunConfig, net: Net, like: Tensor) -> str:
    """Choose the layout where that is asked for; returns what the plan says of it."""
    if config.layout != "auto" or config.compile != "none" or config.shard != "none":
        return ""
    count = config.batch_size // (distributed.world_size() * config.accumulate)
    x = Randomness(config.seed).uniform("engine", like.new_empty(count, *like.shape[1:]))
    said = choose_layout(net, x, config.attack.steps)
    net.use_layout(distributed.first_says(net.layout))
    return f" ({said})" if said else ""


def _check_engine(config: RunConfig, net: Net, plan: Plan) -> None:
    """Raise UsageError where ``--compile`` or ``--shard`` does not go with the plan."""
    if config.compile in ("step", "both") and plan.needs_double_backward:
        asking = ", ".join(name for name, _ in plan.regularizers)
        raise UsageError(
            f"--compile {config.compile}: a compiled step cannot be differentiated twice, "
            f"as {asking} needs it",
            fix="--compile attack",
        )
    if config.compile in ("step", "both") and plan.features_for:
        raise UsageError(
            f"--compile {config.compile}: a compiled forward pass keeps no features, which "
            f"{', '.join(plan.features_for)} reads",
            fix="--compile attack",
        )
    if config.shard != "none":
        check_sharding(config, plan, net.module)


def warn_about_device(config: RunConfig, device: torch.device, timed: bool) -> list[str]:
    """Notes where the run is on another device than a user may think, or slower than it could be.

    Args:
        config: what was asked for.
        device: the device of the run.
        timed: may something be measured? It takes a second.
    """
    notes = []
    if config.device == "auto" and device.type == "cpu" and (unseen := find_unseen_gpu()):
        notes.append(f"this run is on the CPU: {unseen}")
    options = {"--precision": config.precision, "--attack.precision": config.attack.precision}
    asked = [name for name, value in options.items() if value == "bf16"]
    if asked and timed:
        times = measure_bf16(device)
        if times > SLOWER:
            notes.append(
                f"bfloat16 takes {times:.1f} times as long as float32 on this device:"
                f" leave out {' and '.join(f'{name} bf16' for name in asked)}"
            )
    return notes


def _describe_precision(precision: str, config: RunConfig, device: torch.device) -> str:
    """A precision as the plan shows it: on a GPU, float32 alone does not say what is computed."""
    if precision != "float32" or device.type != "cuda":
        return precision
    return "float32, products in TF32" if config.tf32 else "float32, products in full"
