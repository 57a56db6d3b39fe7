"""The ladder without attacks: which clean images are right, and nothing about robustness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from abatis.evaluate.examination import check_outputs
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge, compute_share
from abatis.evaluate.randomised import find_randomness
from abatis.evaluate.request import EvaluationRequest
from abatis.report import numbers
from abatis.report.eval_record import FORMAT
from abatis.report.intervals import wilson_interval
from abatis.report.notebook import show_numbers
from abatis.system import distributed

NO_ATTACK = "no attack was run: nothing is known about the robustness"
ONE_DRAW = "the network answers at random: the clean accuracy is that of one draw"


@dataclass(frozen=True, repr=False)
class CleanEvaluation:
    """The results of the clean ladder, by the names of a whole evaluation; no attack ran.

    Args:
        correct: (n,) bool on the CPU, in the order of the points.
        findings: sentences for the reader.
    """

    ladder: ClassVar[str] = "clean"
    verdict: ClassVar[None] = None

    correct: Tensor
    findings: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.correct)

    @property
    def accuracies(self) -> Mapping[str, float]:
        """The clean accuracy, by its key."""
        return {numbers.CLEAN.key: compute_share(self.correct)}

    @property
    def per_point(self) -> Mapping[str, Tensor]:
        """Which points are classified correctly, as ``clean``."""
        return {"clean": self.correct}

    def __repr__(self) -> str:
        (accuracy,) = self.accuracies.values()
        return f"CleanEvaluation(n={self.n}, {numbers.CLEAN.key}={accuracy!r}; no attack was run)"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return show_numbers(self.to_json(), ["clean ladder"])

    def to_json(self) -> dict[str, object]:
        """Return everything in plain types, in the form of a whole evaluation's record."""
        right = int(self.correct.sum())
        return {
            "format": FORMAT,
            "ladder": self.ladder,
            "n": self.n,
            **self.accuracies,
            "findings": list(self.findings),
            "counts": {"clean": right},
            "interval": {numbers.CLEAN.key: list(wilson_interval(right, self.n))},
            "per_point": {"clean": self.correct.int().tolist()},
        }


def evaluate_clean(module: nn.Module, request: EvaluationRequest) -> CleanEvaluation:
    """Classify the clean images; the module and all global state are left as they were.

    Raises:
        DataError: there are no images, or they are not in [0, 1].
        UsageError: the outputs do not fit the data.
        NotFiniteError: a logit is NaN or infinite.
        OutOfMemoryError: the device has no memory for a single image.
    """
    points = request.points
    with isolate(module) as net:
        judge = Judge(net, points, request.threat, request.batch_size, request.progress)
        clean = judge.classify_clean()
        check_outputs(clean.classes, request.num_classes)
        few = points.subset(torch.arange(min(len(points), request.batch_size)))
        asked = Judge(net, few, request.threat, request.batch_size)
        random = distributed.any_says(find_randomness(asked, request.seed))
    correct = distributed.first_says(clean.correct)
    return CleanEvaluation(correct, (NO_ATTACK, *([ONE_DRAW] if random else [])))
