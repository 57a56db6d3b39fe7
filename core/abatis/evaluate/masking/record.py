"""The gates of the diagnostic tests, and the outcome of one test."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from abatis.report.intervals import wilson_interval

Status = Literal["pass", "warn", "fail", "note", "not applicable"]
NOTHING_CORRECT = "no point is classified correctly without an attack"
FEW = 3  # a share of so few points is not reliable


@dataclass(frozen=True)
class Gate:
    """A test's name, and the limits beyond which it warns and fails.

    A limit is a share of points (0: any point), or words if the test does not measure a share.
    """

    name: str
    warn: float | str | None = None
    fail: float | str | None = None


GATES = {
    "D1": Gate("gradients reach the image", None, "raises or None"),
    "D2": Gate("no gradient is exactly zero", 0, 0.01),
    "D3": Gate("no gradient is vanishingly small", 0.05, 0.2),
    "D4": Gate("logits and gradients are finite", None, 0),
    "D5": Gate("gradients predict differences of the loss", "outside 0.9-1.1", "outside 0.5-1.5"),
    "D6": Gate("two forwards agree", "> 1e-4", "any label"),
    "D7": Gate("outputs are logits", "sums to 1 in [0, 1]", None),
    "D8": Gate("the forward changes nothing and takes no gradients", "gradients", "changes"),
    "D9": Gate("white-box beats a single step", 0.01, 0.02),
    "D10": Gate("white-box beats Square", 0.01, 0.02),
    "D11": Gate("white-box beats transfer", 0.01, 0.02),
    "D12": Gate("white-box beats random noise", 0.005, 0.01),
    "D13": Gate("more steps do not help", 0.02, 0.04),
    "D14": Gate("restarts do not help", 0.02),
    "D15": Gate("the loss rises", 0.01),
    "D16": Gate("the attack comes to an end", 0.25, 0.5),
    "D17": Gate("no success is lost", 0, 0.01),
    "D18": Gate("the choice of the loss matters little", 0.05, 0.15),
    "D19": Gate("accuracy falls with the radius", 0.01, 0.02),
    "D20": Gate("a huge radius leaves nothing", "> chance / 2", "> chance"),
    "D21": Gate("the scale of the logits does not matter", 0.02, 0.05),
    "D22": Gate("batch statistics do not make it robust", 0.05, None),
    "D23": Gate("no overfitting to a single step", 0.1, 0.25),
    "D24": Gate("the attacks stay in the ball", None, 0),
    "D25": Gate("a copy in a new process answers alike", "> 3 images", "> 1 %, or any side effect"),
    "D26": Gate(
        "test images are no more robust than training images", "> 10 points", "> 20 points"
    ),
    "D27": Gate("white-box beats a substitute", 0.01, 0.02),
    "D28": Gate("white-box beats finite differences", 0.01, 0.02),
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one test.

    Args:
        id: D1 to D28.
        name: what a network passes.
        status: pass, warn, fail, or not applicable.
        value: what was measured: ``count / of`` if it is a share.
        count: points that have the property, if points were counted.
        of: all points that were looked at.
        interval: 95 % interval of the share (Wilson).
        warn: the limit of a warning, for people.
        fail: the limit of a failure, for people.
        says: one sentence about the result.
    """

    id: str
    name: str
    status: Status
    value: float | None
    count: int | None
    of: int | None
    interval: tuple[float, float] | None
    warn: str
    fail: str
    says: str

    def to_json(self) -> dict[str, object]:
        """Return everything in plain types."""
        return asdict(self) | {"interval": None if self.interval is None else list(self.interval)}


def make_outcome(
    test: str,
    status: Status,
    says: str,
    value: float | None = None,
    count: int | None = None,
    of: int | None = None,
) -> Outcome:
    """Return an outcome whose status is known already."""
    gate = GATES[test]
    return Outcome(
        id=test,
        name=gate.name,
        status=status,
        value=value,
        count=count,
        of=of,
        interval=None if count is None or of is None else wilson_interval(count, of),
        warn=_show(gate.warn),
        fail=_show(gate.fail),
        says=says,
    )


def grade_share(
    test: str, count: int, of: int, says: str, limits: tuple[float, float] | None = None
) -> Outcome:
    """Return the outcome for a share of points, graded by the test's gates or by ``limits``.

    A share counts only if it stands for more than FEW points; a limit of 0 counts from the first.
    """
    warn, fail = limits or (GATES[test].warn, GATES[test].fail)
    if not of:
        return make_outcome(test, "not applicable", NOTHING_CORRECT)
    status: Status = (
        "fail" if _exceeds(count, of, fail) else "warn" if _exceeds(count, of, warn) else "pass"
    )
    return make_outcome(test, status, says, count / of, count, of)


def _exceeds(count: int, of: int, limit: float | str | None) -> bool:
    if limit is None or isinstance(limit, str):
        return False
    return count > 0 if limit == 0 else count > FEW and count / of > limit


def _show(limit: float | str | None) -> str:
    if limit is None or isinstance(limit, str):
        return limit or "-"
    return f"> {100 * limit:g} %" if limit else "any"
