"""The ladder without attacks: which clean images are right, and nothing about robustness."""

from __future__ import annotations

from dataclasses import dataclass

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
from abatis.system import distributed

NO_ATTACK = "no attack was run: nothing is known about the robustness"
ONE_DRAW = "the network answers at random: the clean accuracy is that of one draw"


@dataclass(frozen=True)
class CleanEvaluation:
    """The results of the clean ladder.

    Args:
        correct: (n,) bool on the CPU, in the order of the points.
        findings: sentences for the reader.
    """

    correct: Tensor
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return everything in plain types, in the form of a whole evaluation's record."""
        n, right = len(self.correct), int(self.correct.sum())
        return {
            "format": FORMAT,
            "ladder": "clean",
            "n": n,
            numbers.CLEAN.key: compute_share(self.correct),
            "findings": list(self.findings),
            "counts": {"clean": right},
            "interval": {numbers.CLEAN.key: list(wilson_interval(right, n))},
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
