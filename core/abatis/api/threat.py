"""The threat model: a norm and a radius. Loads without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from abatis.errors import UsageError, did_you_mean

NORMS = ("Linf", "L2", "L1")


def parse_ratio(text: str | float) -> float:
    """Read ``"8/255"`` or ``0.031`` as a float; raises ValueError if it is neither."""
    try:
        return float(Fraction(str(text).replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{text!r} is not a number; write it like 8/255 or 0.031") from error


def refuse_twice(threats: Sequence[Threat], options: str) -> None:
    """Raise UsageError where two threats have the same norm and radius.

    Args:
        threats: in their order.
        options: that name them.
    """
    seen: dict[tuple[str, float], Threat] = {}
    for threat in threats:
        first = seen.setdefault((threat.norm, threat.eps), threat)
        if first is not threat:
            raise UsageError(
                f"{options} name the same threat twice: {first} and {threat}",
                fix="leave one of them out",
            )


@dataclass(frozen=True)
class Threat:
    """How far an attacker may change an image: a norm and a radius.

    All three norms can be trained and judged; in L1 the evaluation has AutoAttack alone.

    Attributes:
        norm: "Linf", "L2" or "L1".
        eps: the radius in pixel units, where pixels are in [0, 1].
        text: the radius as it was written, like "8/255".
    """

    norm: str
    eps: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Threat:
        """Read a norm and a radius.

        Args:
            text: like "Linf:8/255" or "L2:0.5".

        Raises:
            UsageError: the norm is unknown, or the radius is not a number in its range.
        """
        norm, colon, eps_text = text.partition(":")
        names = {known.lower(): known for known in NORMS}
        if not colon or norm.lower() not in names:
            hint = (
                did_you_mean(norm, NORMS) if norm.lower() not in names else "the radius is missing"
            )
            raise UsageError(
                f"threat {text!r}: {hint}", fix="write norm and radius, like Linf:8/255 or L2:0.5"
            )
        try:
            eps = parse_ratio(eps_text)
        except ValueError as error:
            raise UsageError(
                f"threat {text!r}: {error}", fix="write norm and radius, like Linf:8/255"
            ) from error
        norm = names[norm.lower()]
        if not 0 <= eps < float("inf") or (norm == "Linf" and eps > 1):
            raise UsageError(
                f"threat {text!r}: a radius of {eps:g} is outside [0, 1], the range of the pixels",
                fix=f"pixels are in [0, 1]: did you mean {norm}:{eps_text}/255?",
            )
        return cls(norm, eps, eps_text.replace(" ", ""))

    def __str__(self) -> str:
        return f"{self.norm}:{self.text}"
