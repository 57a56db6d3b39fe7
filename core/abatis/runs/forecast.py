"""``--forecast``: what a run will need of memory and time, before its first step."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from abatis.config.plan_row import PlanRow
from abatis.config.run_config import RunConfig
from abatis.data import DataInfo
from abatis.nets.net import Net
from abatis.runs.fake_step import StepCost, count_step
from abatis.runs.prepare import Prepared
from abatis.system import distributed
from abatis.system.cost_meter import TooLong
from abatis.system.device import describe_device

EVAL_BATCH = 256  # images at a time in the evaluation
SECONDS = 2.0  # of passes that are measured
GIB = 2**30
MOST_PARTS = 64  # micro-batches that are tried where a step does not fit
CONVOLUTIONS, BANDWIDTH = 0.5, 0.8  # shares of the peaks that are assumed
LAUNCH = 5e-6  # seconds from one operation to the next that are assumed
FEW_STEPS = 2  # of an attack: more need no more memory
LEANER: dict[str, dict[str, object]] = {
    "--precision bf16": {"precision": "bf16"},
    "--grad-checkpointing": {"grad_checkpointing": True},
}
"""Options with which a step needs less memory, and what they change in the run."""


@dataclass(frozen=True)
class Peaks:
    """The peaks of a GPU, from its maker's data sheet, for dense matrices.

    Attributes:
        memory: bytes.
        bandwidth: bytes a second.
        float32: operations a second in full float32.
        tf32: those of products and convolutions in TF32.
        bf16: those in bfloat16.
    """

    memory: float
    bandwidth: float
    float32: float
    tf32: float
    bf16: float


PEAKS = {
    "a100": Peaks(80e9, 2.04e12, 19.5e12, 156e12, 312e12),
    "h100": Peaks(80e9, 3.35e12, 67e12, 494e12, 989e12),
    "h200": Peaks(141e9, 4.8e12, 67e12, 494e12, 989e12),
}


def add_forecast(config: RunConfig, prepared: Prepared, images: int | None) -> Prepared:
    """The run with the forecast among the rows of its plan; ``images`` to train on, if known."""
    found = forecast(config, prepared.info, prepared.net, images)
    plan = replace(prepared.plan, rows=(*prepared.plan.rows, *found))
    return replace(prepared, plan=plan)


def forecast(config: RunConfig, info: DataInfo, net: Net, images: int | None) -> list[PlanRow]:
    """The plan's rows of a forecast; on a GPU the memory is always forecast, else only if asked.

    On a CPU, counting would take longer than the first steps of a small run.

    Args:
        config: the run.
        info: the facts of its data.
        net: its network, tuned.
        images: how many training images there are; None where they are not opened.
    """
    device = next(net.module.parameters()).device
    if config.forecast == "none" and (device.type != "cuda" or config.dry_run):
        return []
    if distributed.several():
        why = "it is made by one process: add --dry-run"
        return [_give_none(why)] if config.forecast != "none" else []
    if config.shard != "none":
        return [_give_none("with --shard, a process holds parts of the network")]
    try:
        return list(_make_rows(config, info, net, images, device))
    except (Exception, TooLong) as error:  # a forecast ends no run, whatever a plugin does
        return [_give_none(_explain(error))]


def _give_none(why: str) -> PlanRow:
    return PlanRow("forecast", "none", "", {"why": why})


def _explain(error: BaseException) -> str:
    """Why a step could not be counted."""
    if isinstance(error, TooLong):
        return f"counting the operations of a step takes more than {error.seconds:g} s of CPU time"
    reasons = (error, error.__cause__)
    if any(
        isinstance(one, DataDependentOutputException | DynamicOutputShapeException)
        for one in reasons
    ):
        return "a plugin reads values within its step, and a forecast computes none"
    return f"a step cannot be counted ({type(error).__name__})"


def _make_rows(
    config: RunConfig, info: DataInfo, net: Net, images: int | None, device: torch.device
) -> Iterator[PlanRow]:
    asked = config.forecast != "none"
    cost = _count(config if asked else _shorten(config), info, net)
    size = _find_memory(config, device)
    facts: dict[str, object] = {"memory": _show_bytes(cost.memory)}
    if asked:
        total = sum(cost.flop.values())
        facts |= {"forward passes": f"{cost.passes:.1f}", "FLOP": f"{total:.3g}"}
    yield PlanRow("forecast", "step", "", facts)
    yield PlanRow("forecast", "evaluation", "", {"memory": _show_bytes(cost.evaluation)})
    if asked:
        yield _forecast_time(config, info, net, images, cost)
    if size is not None and max(cost.memory, cost.evaluation) > size:
        yield PlanRow("forecast", "does not fit", "", _help(config, info, net, cost, size))


def _count(config: RunConfig, info: DataInfo, net: Net) -> StepCost:
    return count_step(config, info, net, EVAL_BATCH, max(1, config.nproc))


def _shorten(config: RunConfig) -> RunConfig:
    """The run with few attack steps, which need as much memory as many."""
    steps = min(config.attack.steps, FEW_STEPS)
    return config.model_copy(update={"attack": config.attack.model_copy(update={"steps": steps})})


def _find_memory(config: RunConfig, device: torch.device) -> float | None:
    """Bytes that the forecast's device has; None where that is not known."""
    if config.forecast in PEAKS:
        return PEAKS[config.forecast].memory
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return None


def _help(
    config: RunConfig, info: DataInfo, net: Net, cost: StepCost, size: float
) -> dict[str, object]:
    """What the device has, and with which options the run needs less."""
    facts: dict[str, object] = {"device has": _show_bytes(size)}
    if cost.memory > size:
        facts |= dict(_list_remedies(config, info, net, cost, size))
    if cost.evaluation > size:
        facts["evaluation"] = "halves its batches where memory runs out"
    return facts


def _list_remedies(
    config: RunConfig, info: DataInfo, net: Net, cost: StepCost, size: float
) -> Iterator[tuple[str, str]]:
    """Options with which a step needs less memory, each counted; together if none is enough.

    Args:
        config: the run.
        info: the facts of its data.
        net: its network.
        cost: that of its step.
        size: bytes that the device has.
    """
    short = together = _shorten(config)
    names, enough = "", False
    for name, change in LEANER.items():
        changed = short.model_copy(update=change)
        if changed == short:
            continue
        try:
            memory = _count(changed, info, net).memory
        except (Exception, TooLong):  # not every network can recompute its activations
            continue
        if memory < cost.memory:
            together, names = together.model_copy(update=change), f"{names} {name}"
            enough |= memory <= size
            yield name, _show_bytes(memory) + ("" if memory <= size else ", too much")
    if found := _find_parts(short, info, net, cost.images, size):
        yield found
    elif not enough:
        parts, needed = _find_parts(together, info, net, cost.images, size) or ("", "")
        yield (parts + names, needed) if parts else ("more options", "none was found to be enough")


def _find_parts(
    config: RunConfig, info: DataInfo, net: Net, images: int, size: float
) -> tuple[str, str] | None:
    """The first ``--accumulate`` of twice, four times, ... as many parts that fits, if any."""
    parts = 2 * config.accumulate
    while parts <= min(MOST_PARTS, images):
        try:
            memory = _count(config.model_copy(update={"accumulate": parts}), info, net).memory
        except TooLong:
            return None
        if memory <= size:
            return f"--accumulate {parts}", _show_bytes(memory)
        parts *= 2
    return None


def _forecast_time(
    config: RunConfig, info: DataInfo, net: Net, images: int | None, cost: StepCost
) -> PlanRow:
    """The plan's row of the time of a step and, where the images are known, of an epoch."""
    where: str
    if config.forecast in PEAKS:
        where, basis = config.forecast, "computed from its peaks, not measured"
        step = compute_seconds(PEAKS[config.forecast], cost, config.tf32)
    else:
        device = next(net.module.parameters()).device
        where, basis = describe_device(device), f"from {SECONDS:g} seconds of passes"
        step = cost.passes * cost.images * measure_pass(net, info, cost.images)
    facts: dict[str, object] = {"step": _show_seconds(step)}
    if images is not None:
        facts["epoch"] = _show_seconds(step * max(1, images // config.batch_size))
    return PlanRow("forecast", where, "", {**facts, "basis": basis})


def compute_seconds(peaks: Peaks, cost: StepCost, tf32: bool) -> float:
    """Seconds of a step on a GPU, from its peaks.

    Convolutions and products run at half of the peak, other operations at 80 % of the bandwidth,
    and an operation takes 5 microseconds at least. All three are assumed.
    """
    rates = {torch.bfloat16: peaks.bf16, torch.float32: peaks.tf32 if tf32 else peaks.float32}
    products = sum(
        count / (CONVOLUTIONS * rates.get(dtype, peaks.float32))
        for dtype, count in cost.flop.items()
    )
    return max(products + cost.moved / (BANDWIDTH * peaks.bandwidth), LAUNCH * cost.launches)


def measure_pass(net: Net, info: DataInfo, most: int) -> float:
    """Seconds of a forward pass on one image, from an attack's passes in growing batches.

    Args:
        net: the network.
        info: the facts of its data.
        most: images in the largest batch.
    """
    device = next(net.module.parameters()).device
    images, started, seconds = 1, time.perf_counter(), 0.0
    with net.whole(), net.attack_mode():
        while True:
            shape = (images, info.channels, info.image_size, info.image_size)
            x = torch.full(shape, 0.5, device=device, requires_grad=True)
            began = time.perf_counter()
            _differentiate(net, x)
            seconds = (time.perf_counter() - began) / (2 * images)  # forward and backward pass
            spent = time.perf_counter() - started
            if spent > SECONDS:
                return seconds
            # the next batch must not take longer than what is left
            if images < most and 4 * seconds * images < SECONDS - spent:
                images = min(most, 2 * images)


def _differentiate(net: Net, x: Tensor) -> None:
    """One gradient at the images; the host waits for it."""
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    float(gradient.flatten()[0])


def _show_bytes(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _show_seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
