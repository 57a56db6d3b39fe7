"""Judges a classifier: attacks, whether their verdict can be trusted, and margins."""

from abatis.evaluate.evaluation import Evaluation, evaluate
from abatis.evaluate.judge import Split, Verdicts, clean_verdicts
from abatis.evaluate.masking import Training
from abatis.evaluate.pgd import margin, pgd_verdicts

__all__ = [
    "Evaluation",
    "Split",
    "Training",
    "Verdicts",
    "clean_verdicts",
    "evaluate",
    "margin",
    "pgd_verdicts",
]
