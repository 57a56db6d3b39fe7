"""What is asked of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from abatis.api.context import AdaptiveAttack
from abatis.api.threat import Threat
from abatis.config.ladders import Ladder
from abatis.evaluate.also.attack import AlsoAttack
from abatis.evaluate.judge import Points, Progress
from abatis.evaluate.masking.training import TrainingFacts
from abatis.evaluate.stranger.origin import Origin
from abatis.nets.layout import CHANNELS_LAST


@dataclass(frozen=True)
class EvaluationRequest:
    """Everything about an evaluation but the network.

    Args:
        points: the images to judge on.
        threat: norm and radius of the attacks.
        ladder: which attacks run.
        seed: of all attacks.
        batch_size: at most; it is halved where the device's memory does not suffice.
        device: of the network.
        num_classes: of the data.
        progress: called after every batch.
        state: a file that keeps every finished attack, so that a killed evaluation can resume.
        training: what only the run that trained the network knows.
        adaptive: attacks that plugins bring against their own defense, by plugin.
        plugins: version and options of the plugins of the run, in plain types.
        square_bf16: query the network in bfloat16 in Square. Its result is a number of its own,
            not pyautoattack's.
        also: attacks of others, which run beside the ladder.
        layout: of tensors inside the network, in attacks; contiguous where the network cannot be
            run in channels_last.
        all_tests: run all diagnostics even on the quick ladder, which leaves out the costly ones.
        origin: how another process builds the network; it gets a copy where not given.
    """

    points: Points
    threat: Threat
    ladder: Ladder
    seed: int
    batch_size: int
    device: torch.device
    num_classes: int
    progress: Progress | None = None
    state: Path | None = None
    training: TrainingFacts | None = None
    adaptive: Mapping[str, AdaptiveAttack] = field(default_factory=dict)
    plugins: Mapping[str, object] = field(default_factory=dict)
    square_bf16: bool = False
    origin: Origin | None = None
    also: Sequence[AlsoAttack] = ()
    layout: str = CHANNELS_LAST
    all_tests: bool = False

    @property
    def cheap(self) -> bool:
        """Do only the cheap diagnostics run?"""
        return self.ladder == "quick" and not self.all_tests

    def under(self, threat: Threat, state: Path | None) -> EvaluationRequest:
        """The same question about another threat, whose attacks are kept in another file."""
        return replace(self, threat=threat, state=state)
