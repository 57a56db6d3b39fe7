"""Averages of what the steps of an epoch say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from abatis.system import distributed
from abatis.train.step import StepResult, add_to


@dataclass
class EpochMetrics:
    """Averages over the samples since the last reset; sums stay on the device until they are read."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    samples: int = 0

    def add(self, result: StepResult) -> None:
        """Count one step's samples in."""
        sums = {"loss": result.total, **result.terms}
        sums = {name: value * result.samples for name, value in sums.items()}
        if result.right_adv is not None:
            sums["train_robust_acc"] = result.right_adv
        if result.right_clean is not None:
            sums["train_clean_acc"] = result.right_clean
        add_to(self.sums, sums)
        self.samples += result.samples

    def averages(self) -> dict[str, float]:
        """Read by the host: one synchronisation."""
        if not self.samples:
            return {}
        (sums,) = distributed.summed([torch.stack([value.float() for value in self.sums.values()])])
        values = sums.tolist()
        return {name: value / self.samples for name, value in zip(self.sums, values, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """This process's sums, on the CPU, and the samples of all."""
        return {
            "sums": {name: value.detach().cpu() for name, value in self.sums.items()},
            "samples": self.samples,
        }

    @classmethod
    def restored(cls, states: Sequence[Mapping[str, Any]], device: torch.device) -> EpochMetrics:
        """This process's part of what all had; where there are more or fewer now, the first one has everything."""
        rank, sums = distributed.rank(), states[0]["sums"]
        if len(states) == distributed.world_size():
            sums = states[rank]["sums"]
        else:
            sums = {
                name: sum(state["sums"][name] for state in states) * (rank == 0) for name in sums
            }
        return cls({name: value.to(device) for name, value in sums.items()}, states[0]["samples"])
