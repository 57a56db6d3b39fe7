"""What a training is made of, and how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from abatis.api.randomness import Randomness
from abatis.config.run_config import RunConfig
from abatis.data import Data, batches_per_epoch
from abatis.nets.module_state import EXTRA, read_extra_state, read_tensors
from abatis.nets.net import Net
from abatis.nets.weights_file import write_weights
from abatis.system import distributed
from abatis.system.files import explain_disk_errors
from abatis.train.builtin.averaging import WeightAveraging
from abatis.train.plan import Plan


class Listener(Protocol):
    """Hears how the training goes."""

    def step(self, done: int, epoch: int, averages: Mapping[str, float]) -> None: ...

    def epoch(self, row: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Training:
    """What a training is made of.

    Attributes:
        config: The options of the run.
        net: The network that is trained.
        plan: The callables of every step.
        data: Training, validation and test images.
        folder: The run folder.
        facts: About the network and the data, for the weights files.
        random: The draws that the plan's callables use.
        validate: Clean and robust accuracy of a network on the held-out images; called only if
            there are any.
        code: The digests of the user's code that the run is made of.
        content: The digests of its images.
        continues: What is known about the run that this one goes on from; empty where it starts
            afresh.
    """

    config: RunConfig
    net: Net
    plan: Plan
    data: Data
    folder: Path
    facts: Mapping[str, Any]
    random: Randomness
    validate: Callable[[nn.Module], tuple[float, float]]
    code: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, str] = field(default_factory=dict)
    continues: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> int:
        config = self.config
        return config.epoch_updates or batches_per_epoch(len(self.data.train), config.batch_size)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    @property
    def device(self) -> torch.device:
        return next(self.net.module.parameters()).device

    @cached_property
    def averaging(self) -> WeightAveraging | None:
        """The trainer hook that averages the weights, if averaging is on."""
        return self.plan.averaging

    @property
    def twin(self) -> nn.Module | None:
        """Holds the averaged weights of a network in pieces."""
        return None if self.averaging is None else self.averaging.twin

    def make_whole(self, module: nn.Module) -> nn.Module:
        """The module; if it is in pieces, a copy that is put together from all processes."""
        return module if self.net.sharding is None else self.net.sharding.gather(module)

    def describe_weights(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """The facts of a weights file, with the extra state of the network where it has some."""
        return {**self.facts, **({EXTRA: dict(extra)} if extra else {})}

    def write_weights(self, name: str, module: nn.Module) -> None:
        """Write weights into the run folder; the first process does."""
        module = self.make_whole(module)
        if distributed.rank() == 0:
            with explain_disk_errors(self.folder):
                facts = self.describe_weights(read_extra_state(module))
                write_weights(self.folder / name, read_tensors(module), facts)


@dataclass
class Progress:
    """How far a training has come; a checkpoint holds all of it.

    Attributes:
        step: Steps that are done.
        epochs_ended: Epochs that are done, validation included.
        best: Epoch and accuracies of the best weights so far.
        best_files: The sha256 of the files that hold them, by name.
        finished: Is nothing left to do?
        seconds: What the training took.
    """

    step: int = 0
    epochs_ended: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_files: dict[str, str] = field(default_factory=dict)
    finished: bool = False
    seconds: float = 0.0
