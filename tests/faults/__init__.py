"""Faults in whole runs. A run that is to die lives in a child process, forked from this one."""

from __future__ import annotations

import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

import abatis
from abatis.errors import INTERRUPTED, AbatisError
from abatis.runs.launch import make_environments
from abatis.system import files
from abatis.train import checkpoint, saving
from abatis.train.step import Step
from tests.helpers import tiny

EVERY = 3  # steps between checkpoints, of the 8 steps in two epochs of 4
CHANGES: dict[str, Any] = {
    "name": "r",
    "ema": 0.9,
    "augment": "crop-flip",
    "optim": {"name": "adamw", "lr": 0.001},
    "checkpoint_every": EVERY,
}
PATIENCE = 300  # seconds after which a child is taken for hung


def train(out: Path, model: nn.Module | None = None, **changes: Any) -> Path:
    """A tiny run in ``out/r``, with everything that has a state of its own; returns its folder."""
    return abatis.run(tiny(out, **{**CHANGES, **changes}), model=model).folder


def start_child(work: Callable[[], object]) -> int:
    """Some work in a child; its process number."""
    child = os.fork()
    if child == 0:
        os._exit(_outcome(work))
    return child


def ended(child: int) -> int:
    """How a child ended: its exit code as on the command line, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(work: Callable[[], object]) -> int:
    """Do some work in a child; returns its exit code once it has ended."""
    return ended(start_child(work))


def together(count: int, work: Callable[[int], object]) -> list[int]:
    """Some work in children that know each other, each told its rank; their exit codes."""

    def joining(places: Mapping[str, str]) -> Callable[[], object]:
        def call() -> object:
            os.environ.update(places)
            return work(int(places["RANK"]))

        return call

    children = [start_child(joining(places)) for places in make_environments(count)]
    return [ended(child) for child in children]


def _outcome(work: Callable[[], object]) -> int:
    signal.alarm(PATIENCE)  # its default action ends a child that hangs
    try:
        work()
    except AbatisError as error:
        print(error, flush=True)
        os._exit(error.exit_code)  # as the command line does where another process was lost
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def die() -> None:
    """As by a power cut: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def before_step(number: int, act: Callable[[], object]) -> None:
    """In this process, do something before one step."""
    step = Step.__call__

    def call(self: Step, batch: Any, current: int, *rest: Any) -> Any:
        if current == number:
            act()
        return step(self, batch, current, *rest)

    Step.__call__ = call  # type: ignore[method-assign]


def in_save(number: int, act: Callable[[], object], *, flush: int = 0, rename: int = 0) -> None:
    """In this process, act inside the number-th save, before one of its flushes or renames."""
    save, calls = checkpoint.save_checkpoint, Counter[str]()

    def counted(kind: str, at: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[kind] += 1
            if calls["save"] == number and calls[kind] == at:
                act()
            return function(*arguments)

        return call

    def count_saves(*arguments: Any) -> Path:
        calls.update(save=1, flush=-calls["flush"], rename=-calls["rename"])
        return save(*arguments)

    saving.save_checkpoint = count_saves
    for module in (checkpoint, files):
        module.flush = counted("flush", flush, module.flush)
    Path.rename = counted("rename", rename, Path.rename)  # type: ignore[method-assign]


def killed(out: Path, step: int, **changes: Any) -> None:
    """Leave behind a run that was killed before a step."""

    def work() -> None:
        before_step(step, die)
        train(out, **changes)

    assert in_child(work) == -signal.SIGKILL


def checkpoints(out: Path) -> list[Path]:
    """Those of a run, oldest first, with whatever else lies there."""
    return sorted((out / "r" / checkpoint.CHECKPOINTS).iterdir())


def flip(path: Path) -> None:
    """Turn over one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
