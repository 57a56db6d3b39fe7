"""What a diagnostic test says: its gates, and the record of one outcome."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from abatis.evaluate.intervals import wilson

Status = Literal["pass", "warn", "fail", "note", "not applicable"]
FEW = 3  # points: a share of so few says nothing


@dataclass(frozen=True)
class Gate:
    """A test's name, and beyond what it warns and fails: a share of points, 0 for any point, or words where it is no share."""

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
    "D8": Gate("the forward changes nothing and takes no gradients", None, "any"),
    "D9": Gate("white-box beats a single step", 0.01, 0.02),
    "D10": Gate("white-box beats Square", 0.01, 0.02),
    "D11": Gate("white-box beats transfer", 0.01, 0.02),
    "D12": Gate("white-box beats random noise", 0.005, 0.01),
    "D13": Gate("more steps do not help", 0.02, 0.04),
    "D14": Gate("restarts do not help", 0.02, 0.04),
    "D15": Gate("the loss rises", 0.01, 0.05),
    "D16": Gate("the attack comes to an end", 0.25, 0.5),
    "D17": Gate("no success is lost", 0, 0.01),
    "D18": Gate("the choice of the loss matters little", 0.05, 0.15),
    "D19": Gate("accuracy falls with the radius", 0.01, 0.02),
    "D20": Gate("a huge radius leaves nothing", "> chance / 2", "> chance"),
    "D21": Gate("the scale of the logits does not matter", 0.02, 0.05),
    "D22": Gate("batch statistics do not make it robust", 0.05, None),
    "D23": Gate("no overfitting to a single step", 0.1, 0.25),
    "D24": Gate("the attacks stay in the ball", None, 0),
}


@dataclass(frozen=True)
class Test:
    """The outcome of one test.

    value: what was measured, the share ``count / of`` where it is one; interval: Wilson, 95 %; warn, fail: its gates as
    people read them; says: one sentence.
    """

    __test__ = False  # pytest collects by name

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
        """Everything in plain types."""
        return asdict(self) | {"interval": None if self.interval is None else list(self.interval)}


def told(test: str, status: Status, says: str, value: float | None = None) -> Test:
    """An outcome that is no share of points."""
    return _test(test, status, value, None, None, says)


def rated(
    test: str, count: int, of: int, says: str, limits: tuple[float, float] | None = None
) -> Test:
    """The outcome of ``count`` out of ``of`` points, by the test's gates or by ``limits``.

    A share speaks only where it stands for more than FEW points; a gate of "any" speaks at the first.
    """
    warn, fail = limits or (GATES[test].warn, GATES[test].fail)
    if not of:
        return told(test, "not applicable", "no point is right without an attack")
    status: Status = (
        "fail" if _beyond(count, of, fail) else "warn" if _beyond(count, of, warn) else "pass"
    )
    return _test(test, status, count / of, count, of, says)


def judged(test: str, status: Status, count: int, of: int, says: str, value: float) -> Test:
    """An outcome that other numbers decided than the share of points it also tells."""
    return _test(test, status, value, count, of, says)


def _test(
    test: str, status: Status, value: float | None, count: int | None, of: int | None, says: str
) -> Test:
    gate = GATES[test]
    interval = None if count is None or of is None else wilson(count, of)
    return Test(
        test,
        gate.name,
        status,
        value,
        count,
        of,
        interval,
        _shown(gate.warn),
        _shown(gate.fail),
        says,
    )


def _beyond(count: int, of: int, limit: float | str | None) -> bool:
    if limit is None or isinstance(limit, str):
        return False
    return count > 0 if limit == 0 else count > FEW and count / of > limit


def _shown(limit: float | str | None) -> str:
    if limit is None or isinstance(limit, str):
        return limit or "-"
    return f"> {100 * limit:g} %" if limit else "any"
