"""The result of a run, as its folder holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from abatis.report.eval_record import read_record
from abatis.report.notebook import show_numbers


@dataclass(frozen=True)
class Result:
    """The result of a run; every accuracy is a fraction of the test images.

    Args:
        folder: the run folder.
        clean_acc: accuracy on the unchanged images; None where the run was not evaluated.
        pgd20_acc: accuracy under PGD-20; None where it was not measured.
        autoattack_acc: accuracy under AutoAttack; None where it was not measured.
        robust_acc: share of the images that no attack broke; None where it was not measured, and
            where the verdict is FAIL.
        robust_acc_upper: the same share where the verdict is FAIL: an upper bound of the robust
            accuracy, not to be believed; None elsewhere.
        verdict: PASS, UNDECIDED (too little to judge), WARN or FAIL of the masking diagnostics;
            None where they did not run.
        n: number of test images.
    """

    folder: Path
    clean_acc: float | None = None
    pgd20_acc: float | None = None
    autoattack_acc: float | None = None
    robust_acc: float | None = None
    robust_acc_upper: float | None = None
    verdict: str | None = None
    n: int = 0

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return show_numbers(asdict(self), [f"run folder {self.folder}"])


def read_result(folder: Path) -> Result:
    """The result that the evaluation in a run folder gives."""
    record = read_record(folder)
    names = {field.name for field in fields(Result)} - {"folder", "n"}
    return Result(folder, **{name: record.get(name) for name in names}, n=record.get("n", 0))
