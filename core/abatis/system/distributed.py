"""Several processes that share one run (``torchrun``, ``--nproc``): who takes which rows, and what all must agree on.

With one process every function here does nothing, at no cost.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from abatis.errors import ProcessLost, UsageError
from abatis.system import torch_messages

Value = TypeVar("Value")
SILENCE = timedelta(
    minutes=30
)  # without an answer; the longest wait is for a process whose share of an attack takes longer


def rank() -> int:
    """The number of this process; 0 where there is only one."""
    return dist.get_rank() if several() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if several() else 1


def several() -> bool:
    """Is there more than one process?"""
    return dist.is_available() and dist.is_initialized()


def restarted() -> bool:
    """Has an elastic agent started this run again? All must be asked: only the agent that saw the failure counts it."""
    return any_says(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0")


def may_restart() -> bool:
    """Will an elastic agent start this run again where a process fails?"""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"


def rows_of(n: int) -> slice:
    """Which rows of a batch of n samples this process takes."""
    world = world_size()
    return slice(n * rank() // world, n * (rank() + 1) // world)


def share_of(n: int) -> Tensor:
    """Which of n points this process attacks: (n,) bool. Every world-size-th, so that the work is even."""
    mine = torch.zeros(n, dtype=torch.bool)
    mine[rank() :: world_size()] = True
    return mine


def all_agree(flags: Tensor) -> Tensor:
    """Where all processes say yes: bool of the same shape, on the same device."""
    if not several():
        return flags
    counts = flags.int()
    dist.all_reduce(counts, dist.ReduceOp.MIN)
    return counts.bool()


def any_says(flag: bool) -> bool:
    """Does one process say yes?"""
    return total(int(flag)) > 0 if several() else flag


def total(count: int) -> int:
    """The sum over all processes."""
    if not several():
        return count
    value = torch.tensor(count)
    dist.all_reduce(value)
    return int(value)


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sums over all processes, in one exchange; the tensors share type and device."""
    if not several() or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gathered(values: Tensor, of: int) -> Tensor:
    """The values of all processes in the order of the rows, (of, ...), from this one's rows of them."""
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


def first_says(value: Value) -> Value:
    """What the first process has there, for all."""
    if not several():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def each(value: Value) -> list[Value]:
    """What every process has there, in the order of their ranks."""
    found = [value] * world_size()
    if several():
        dist.all_gather_object(found, value)
    return found


Exchanging = Callable[[bool], AbstractContextManager[None]]
"""Around forward and backward: are gradients exchanged now, or kept for the next micro-batch?"""


def shared(module: nn.Module) -> tuple[Callable[[Any], Any], Exchanging]:
    """The module with its gradients averaged over all processes, and when they are; as it is where there is one process."""
    if not several():
        return module, lambda now: nullcontext()
    # buffers are each process's own until they are averaged; a parameter that no term reaches must not stop the others
    with warnings.catch_warnings():
        # newer versions of torch want forward_sync_buffers, which older ones lack and which cannot leave buffers alone at first
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped = DistributedDataParallel(
            module, broadcast_buffers=False, find_unused_parameters=True
        )
    return wrapped, lambda now: nullcontext() if now else wrapped.no_sync()


@contextmanager
def joined() -> Iterator[None]:
    """Connect with the other processes where several were started. Tensors travel where they lie: on the CPU or on GPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or several():
        yield
        return
    if may_restart() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torch leaves the addresses of the ended processes in that store, and the new ones would now and then call those
        raise UsageError(
            "processes that are started again need a store of their own, not the agent's",
            where="torchrun",
            fix="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend c10d ...",
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=SILENCE
    )
    try:
        with answering(lambda: "outside of training"):
            yield
            any_says(False)  # none takes its connections away while another one still uses them
    finally:
        dist.destroy_process_group()


@contextmanager
def answering(state: Callable[[], str]) -> Iterator[None]:
    """Where another process has ended or gives no answer, raise ProcessLost, saying how far this one was."""
    try:
        yield
    except RuntimeError as error:
        found = lost(error)
        if not found:
            raise
        raise ProcessLost(
            f"another process of this run {found}",
            where=f"process {rank()}, {state()}",
            fix="see what that one says",
        ) from error


def lost(error: BaseException) -> str:
    """What an error says of another process of this run; empty where it says something else."""
    return torch_messages.lost_process(error) if several() else ""
