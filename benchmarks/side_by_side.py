"""How training steps are compared: interleaved in one process, by CPU time, as ratios within each
round.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

ATTACK = "attack, all of it"  # the label under which a step may record its attack
SHORTEST = 0.5  # CPU seconds; what is shorter is repeated, or the clock and the caches would decide


@dataclass(frozen=True)
class Variant:
    """One way to make a step, and what puts its network back to where it began."""

    call: Callable[[], None]
    restore: Callable[[], None]


Times = Mapping[str, list[float]]
"""CPU seconds of a call, one for each round."""


def measure(
    variants: Mapping[str, Variant], rounds: int, warm_up: bool = True, shortest: float = SHORTEST
) -> Times:
    """Each round calls every variant, every other one in reverse order.

    An unmeasured round comes first, or not where steps are so long that it would say nothing; then
    none is repeated.
    """
    repeats = {
        name: math.ceil(shortest / cpu_seconds(variant)) if warm_up else 1
        for name, variant in variants.items()
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        for name in list(variants)[:: 1 if number % 2 == 0 else -1]:
            times[name].append(cpu_seconds(variants[name], repeats[name]))
    return times


def cpu_seconds(variant: Variant, repeats: int = 1) -> float:
    """CPU seconds of one call, all threads together."""
    variant.restore()
    began = time.process_time()
    for _ in range(repeats):
        variant.call()
    return (time.process_time() - began) / repeats


def ratio(times: Times, over: str, under: str) -> float:
    """Median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def peak_bytes(variant: Variant) -> int:
    """Most bytes that torch's allocator held during a call beyond what it held before, as
    torch.profiler saw them.

    Scratch memory that a kernel library takes for itself is not in it.
    """
    variant.restore()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        variant.call()
    events = [
        event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def busiest(variant: Variant, calls: int = 3, count: int = 8) -> dict[str, float]:
    """Shares of the time of some calls: that of the attack if they mark one, then the operations
    that take most themselves.

    The profiler's clock runs on while others have the core.
    """
    variant.restore()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(calls):
            variant.call()
    events = found.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    own = {event.key: event.self_cpu_time_total for event in events if event.key != ATTACK}
    largest = sorted(own, key=own.__getitem__, reverse=True)[:count]
    times = {event.key: event.cpu_time_total for event in events if event.key == ATTACK} | {
        name: own[name] for name in largest
    }
    return {name: round(time / whole, 3) for name, time in times.items()}


class FlopCount(TorchDispatchMode):
    """Adds up floating-point operations; torch's own counter hooks modules and then refuses the
    input gradient of a leaf.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=result) if count else 0
        return result


def flop(call: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in a call."""
    with FlopCount() as counter:
        call()
    return counter.total


def machine_peaks() -> dict[str, float]:
    """GFLOP per CPU second of matrix products and of 3x3 convolutions like those of the networks,
    in channels_last.
    """
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        square = torch.rand(2048, 2048, dtype=dtype)
        found[f"matmul 2048, {name}"] = _rate(lambda a=square: a @ a)
        for channels, size, batch in ((16, 32, 64), (64, 32, 32), (256, 8, 32)):
            images = torch.rand(batch, channels, size, size, dtype=dtype).to(
                memory_format=torch.channels_last
            )
            weight = torch.rand(channels, channels, 3, 3, dtype=dtype).to(
                memory_format=torch.channels_last
            )
            label = f"convolution of {batch} x {channels} x {size} x {size}, {name}"
            found[label] = _rate(lambda x=images, w=weight: F.conv2d(x, w, padding=1))
    return found


def _rate(call: Callable[[], object], calls: int = 5, rounds: int = 5) -> float:
    call()
    work, rates = flop(call) * calls / 1e9, []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(calls):
            call()
        rates.append(work / (time.process_time() - began))
    return round(max(rates), 1)


def facts(*packages: str) -> dict[str, Any]:
    """Date, machine, threads and versions of a record.

    The machine is named with the instruction set that torch uses; a package that is not installed
    is named as absent.
    """
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": ", ".join(
            [
                platform.machine(),
                *models[:1],
                f"{os.cpu_count()} cores",
                torch.backends.cpu.get_cpu_capability(),
            ]
        ),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in packages},
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
