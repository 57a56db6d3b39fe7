"""Averages over the steps of an epoch, as metrics.jsonl has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from abatis.api.batch import SHOWN
from abatis.system import distributed
from abatis.train.micro_batches import add_to
from abatis.train.step import StepResult


@dataclass
class EpochMetrics:
    """Averages over the samples of an epoch; sums stay on the device until they are read.

    Attributes:
        sums: Of this process, () each, by name.
        samples: Of all processes.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    samples: int = 0

    def add(self, result: StepResult) -> None:
        """Count in the samples of a step."""
        means = {"loss": result.total, **result.terms}
        sums = {name: mean * result.samples for name, mean in means.items()}
        if result.right_adv is not None:
            sums["train_robust_acc"] = result.right_adv
        if result.right_clean is not None:
            sums["train_clean_acc"] = result.right_clean
        sums |= {f"{SHOWN}{name}": value for name, value in result.attack.items()}
        add_to(self.sums, sums)
        self.samples += result.samples

    def clear(self) -> None:
        """Begin another epoch."""
        self.sums = {}
        self.samples = 0

    def averages(self) -> dict[str, float]:
        """The averages so far, read by the host: one synchronisation."""
        if not self.samples:
            return {}
        own = torch.stack([value.float() for value in self.sums.values()])
        (sums,) = distributed.sum_over_processes([own])
        values = sums.tolist()
        return {name: value / self.samples for name, value in zip(self.sums, values, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """This process's sums, on the CPU, and the samples of all."""
        return {
            "sums": {name: value.detach().cpu() for name, value in self.sums.items()},
            "samples": self.samples,
        }

    def restore(self, states: Sequence[Mapping[str, Any]], device: torch.device) -> None:
        """Take over what :meth:`state_dict` gave in every process.

        Where there are more or fewer processes now, the first one takes over all sums.
        """
        rank = distributed.rank()
        if len(states) == distributed.world_size():
            sums = states[rank]["sums"]
        else:
            sums = {
                name: sum(state["sums"][name] for state in states) * (rank == 0)
                for name in states[0]["sums"]
            }
        self.sums = {name: value.to(device) for name, value in sums.items()}
        self.samples = states[0]["samples"]
