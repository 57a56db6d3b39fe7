"""Several processes that train one network (``torchrun``, ``--nproc``): ranks, shares, exchanges.

With one process every function here returns at once and changes nothing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from abatis.errors import ProcessLost, UsageError
from abatis.system import torch_messages
from abatis.system.own_gpu import check_own_gpus, choose_gpu, name_gpu

Value = TypeVar("Value")

# The longest wait is for a process whose share of an attack takes longer than that of the others.
SILENCE = timedelta(minutes=30)


def rank() -> int:
    """Return the number of this process, 0 if it is the only one."""
    return dist.get_rank() if several() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if several() else 1


def several() -> bool:
    """Is there more than one process?"""
    return dist.is_available() and dist.is_initialized()


def was_restarted() -> bool:
    """Has an elastic agent started this run again?

    Every process must call this: only the agent that saw the failure counts the restart.
    """
    return any_says(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0")


def may_restart() -> bool:
    """Will an elastic agent start this run again if a process fails?"""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"


def rows_of(n: int) -> slice:
    """Return the rows that this process takes of a batch of n samples."""
    world = world_size()
    return slice(n * rank() // world, n * (rank() + 1) // world)


def share_of(n: int) -> Tensor:
    """Return which of n points this process attacks, (n,) bool: every world-size-th one."""
    mine = torch.zeros(n, dtype=torch.bool)
    mine[rank() :: world_size()] = True
    return mine


def all_agree(flags: Tensor) -> Tensor:
    """Return where every process has True: bool of the same shape, on the same device."""
    if not several():
        return flags
    counts = flags.int()
    dist.all_reduce(counts, dist.ReduceOp.MIN)
    return counts.bool()


def any_says(flag: bool) -> bool:
    """Is the flag True in at least one process?"""
    return sum_count(int(flag)) > 0 if several() else flag


def sum_count(count: int) -> int:
    """Return the sum of a whole number over all processes."""
    if not several():
        return count
    value = torch.tensor(count)
    dist.all_reduce(value)
    return int(value)


def sum_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums over all processes, in one exchange; the tensors share type and device."""
    if not several() or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gather(values: Tensor, of: int) -> Tensor:
    """Return the rows of all processes in order, (of, ...), from this process's rows of them."""
    if not several():
        return values
    sizes = [
        of * (number + 1) // world_size() - of * number // world_size()
        for number in range(world_size())
    ]
    padded = values.new_zeros(max(sizes), *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def fetch_partners(values: Tensor, of: int) -> Tensor:
    """Return the partners of this process's rows: row ``of - 1 - r`` of the batch for row r.

    Every process receives those rows only.

    Args:
        values: this process's rows, (B, ...).
        of: the number of rows of all processes.

    Returns:
        (B, ...).
    """
    if not several():
        return values.flip(0)
    bounds = [of * number // world_size() for number in range(world_size() + 1)]
    mine = rows_of(of)
    # the partners of my rows are the rows of - mine.stop .. of - mine.start - 1
    low, high = of - mine.stop, of - mine.start
    sizes = [max(0, min(high, stop) - max(low, start)) for start, stop in pairwise(bounds)]
    sent = values.flip(0).contiguous()  # by rising partner, so by rising process
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, sizes, sizes)
    return torch.cat(received.split(sizes)[::-1])  # from the last process on, each by falling row


def first_says(value: Value) -> Value:
    """Return the value of the first process, in every process."""
    if not several():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def collect(value: Value) -> list[Value]:
    """Return the values of all processes, in the order of their ranks."""
    found = [value] * world_size()
    if several():
        dist.all_gather_object(found, value)
    return found


Exchanging = Callable[[bool], AbstractContextManager[None]]
"""Around forward and backward: average the gradients now (True), or keep them for the next
micro-batch (False)?"""


def average_gradients(module: nn.Module) -> tuple[Callable[[Any], Any], Exchanging]:
    """Wrap a module so that its gradients are averaged over all processes.

    Returns:
        The module to call, and the context that says when gradients are averaged.
    """
    if not several():
        return module, lambda now: nullcontext()
    # Buffers stay each process's own until they are averaged. A parameter that no term reaches
    # must not make the other processes wait.
    with warnings.catch_warnings():
        # Newer versions of torch want forward_sync_buffers, which older ones lack and which
        # cannot leave the buffers alone at first.
        warnings.filterwarnings("ignore", torch_messages.BROADCAST_BUFFERS, FutureWarning)
        wrapped = DistributedDataParallel(
            module, broadcast_buffers=False, find_unused_parameters=True
        )
    return wrapped, lambda now: nullcontext() if now else wrapped.no_sync()


@contextmanager
def connect(device: str = "auto") -> Iterator[None]:
    """Connect with the other processes if several were started.

    Tensors are exchanged where they are: on the CPU by gloo, on GPUs by NCCL.

    Args:
        device: the value of ``--device``.

    Raises:
        UsageError: processes that may be restarted share the agent's store, or there is no GPU for
            each process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or several():
        yield
        return
    if may_restart() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torch leaves the addresses of the ended processes in that store, and the new ones would
        # now and then connect to those
        raise UsageError(
            "processes that are restarted need a store of their own, not the agent's",
            where="torchrun",
            fix="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend c10d ...",
        )
    gpu = choose_gpu(device)
    if gpu is not None:
        torch.cuda.set_device(gpu)
    dist.init_process_group("gloo" if gpu is None else "cpu:gloo,cuda:nccl", timeout=SILENCE)
    try:
        with watch_others(lambda: "outside of training"):
            check_own_gpus(collect(name_gpu(gpu)))
            yield
            any_says(False)  # no process closes its connections while another one still uses them
    finally:
        dist.destroy_process_group()


@contextmanager
def watch_others(state: Callable[[], str]) -> Iterator[None]:
    """Raise ProcessLost if another process has ended or stopped responding.

    Args:
        state: how far this process is, for the message.
    """
    try:
        yield
    except RuntimeError as error:
        found = lost_process(error)
        if not found:
            raise
        raise ProcessLost(
            f"another process of this run {found}",
            where=f"process {rank()}, {state()}",
            fix="read the messages of that process",
        ) from error


def lost_process(error: BaseException) -> str:
    """Return what an error says about another process of this run, or an empty string."""
    return torch_messages.lost_process(error) if several() else ""
