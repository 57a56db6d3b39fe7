"""Judges a classifier: clean accuracy, PGD-20 and AutoAttack."""

from abatis.evaluate.evaluation import Evaluation, evaluate
from abatis.evaluate.judge import Split, Verdicts, clean_verdicts
from abatis.evaluate.pgd import margin, pgd_verdicts

__all__ = ["Evaluation", "Split", "Verdicts", "clean_verdicts", "evaluate", "margin", "pgd_verdicts"]
