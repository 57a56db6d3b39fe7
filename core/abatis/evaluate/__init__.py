"""Judges a classifier: attacks, whether their verdict can be trusted, and margins.

The names below are imported when first used, so that one module of this folder can be used without
the others, and PGD without AutoAttack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatis.system.lazy import lazy_names

if TYPE_CHECKING:
    from abatis.evaluate.evaluation import Evaluation, evaluate
    from abatis.evaluate.judge import Points, Verdicts, judge_clean
    from abatis.evaluate.masking.training import TrainingFacts
    from abatis.evaluate.pgd import judge_with_pgd, margin
    from abatis.evaluate.request import EvaluationRequest

_HOME = {
    "evaluate.evaluation": ("Evaluation", "evaluate"),
    "evaluate.judge": ("Points", "Verdicts", "judge_clean"),
    "evaluate.masking.training": ("TrainingFacts",),
    "evaluate.pgd": ("judge_with_pgd", "margin"),
    "evaluate.request": ("EvaluationRequest",),
}

__all__ = [
    "Evaluation",
    "EvaluationRequest",
    "Points",
    "TrainingFacts",
    "Verdicts",
    "evaluate",
    "judge_clean",
    "judge_with_pgd",
    "margin",
]

__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
