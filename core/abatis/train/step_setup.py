"""What every step of a training works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from abatis.api.randomness import Randomness
from abatis.api.threat import Threat
from abatis.config.option_groups import StatisticsConfig
from abatis.nets.net import Net
from abatis.train.plan import Plan


@dataclass(frozen=True)
class StepSetup:
    """What every step of a training works with.

    Attributes:
        net: The network that is trained.
        plan: The callables of the step.
        threat: Norm and radius of the attack.
        random: The draws that the plan's callables use.
        batch_statistics: Does the attack run on the batch's own statistics?
        accumulate: How many micro-batches a batch is cut into.
        clip_grad: Largest norm of the gradient; 0 does not clip.
        deferred: Are checks read by the host now and then, instead of in every step?
        statistics: Which forwards move the running statistics.
    """

    net: Net
    plan: Plan
    threat: Threat
    random: Randomness
    batch_statistics: bool = False
    accumulate: int = 1
    clip_grad: float = 0.0
    deferred: bool = False
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
