"""What the abstracts claim, the number that decides it, and how it came out here.

A difference between two methods is taken image by image on the same test images, once for each
seed, with a 95 % interval over the images. A claim is *seen* where the interval of every seed lies
on its side, *not seen* where every one lies on the other side, else *undecided at this scale*.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

RESULTS = Path(__file__).parent.parent / "results"
SEEN, NOT_SEEN, UNDECIDED, NOT_RUN = "seen", "not seen", "undecided at this scale", "not run"
Row = Mapping[str, Any]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """What was measured, and which of the four words it makes."""

    measured: str
    word: str


NOTHING = Finding("not run yet", NOT_RUN)


@dataclass(frozen=True)
class Claim:
    """One claim of an abstract.

    Attributes:
        paper: whose.
        text: the claim, in our words.
        quantity: the number that decides it.
        part: the record that carries the number.
        decide: from the record's rows.
    """

    paper: str
    text: str
    quantity: str
    part: str
    decide: Callable[[Mapping[str, Row]], Finding]


def read_rows(part: str) -> dict[str, Row]:
    """The rows of one record, by name; none where there is no record."""
    path = RESULTS / f"paper-{part}.json"
    return dict(json.loads(path.read_text()).get("rows", {})) if path.exists() else {}


def evaluation_of(row: Row) -> Mapping[str, Any]:
    """The evaluation of a row under its first threat."""
    first: Mapping[str, Any] = next(iter(row["evaluations"].values()))
    return first


def values_of(row: Row, name: str) -> Numbers:
    """One number of every judged image: ``robust``, ``PGD-20``, ... or a margin, ``logit`` ..."""
    found = evaluation_of(row)
    places = found["margins"]["per_point"] | found["per_point"]
    return np.array([np.nan if value is None else value for value in places[name]], dtype=float)


def seeds_of(rows: Mapping[str, Row], method: str) -> dict[int, Row]:
    """The rows of a method by seed."""
    return {row["seed"]: row for row in rows.values() if row["method"] == method}


@dataclass(frozen=True)
class Difference:
    """A mean over images with its 95 % interval."""

    mean: float
    low: float
    high: float


def find_difference(mine: Numbers, theirs: Numbers) -> Difference:
    """Mean of ``mine - theirs`` over images where both are finite: (n,), (n,)."""
    gaps = (mine - theirs)[np.isfinite(mine) & np.isfinite(theirs)]
    mean = float(gaps.mean())
    half = float(t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps)))
    return Difference(mean, mean - half, mean + half)


def choose_word(differences: Iterable[Difference]) -> str:
    """Of a claim that the differences are above 0."""
    found = list(differences)
    if not found:
        return NOT_RUN
    if all(one.low > 0 for one in found):
        return SEEN
    return NOT_SEEN if all(one.high < 0 for one in found) else UNDECIDED


def compare(
    mine: str, theirs: str, name: str, *, lower: bool = False, half: str = ""
) -> Callable[[Mapping[str, Row]], Finding]:
    """Decide that a method has larger values than another one.

    Args:
        mine: the method of the claim.
        theirs: the other one.
        name: of the value, see :func:`values_of`; accuracies are shown in points of a hundred.
        lower: the claim is that they are lower.
        half: only images in the "lower" or "upper" half of the other method's own values.
    """
    factor, unit = (100.0, " points") if name in ("clean", "robust", "AutoAttack") else (1.0, "")

    def decide(rows: Mapping[str, Row]) -> Finding:
        first, second = seeds_of(rows, mine), seeds_of(rows, theirs)
        found: dict[int, Difference] = {}
        for seed in sorted(first.keys() & second.keys()):
            ours, others = values_of(first[seed], name), values_of(second[seed], name)
            if half:
                few = others <= np.nanmedian(others)
                chosen = few if half == "lower" else ~few
                ours, others = ours[chosen], others[chosen]
            found[seed] = find_difference(factor * ours, factor * others)
        if not found:
            return NOTHING
        flipped = [
            Difference(-one.mean, -one.high, -one.low) if lower else one for one in found.values()
        ]
        words = "; ".join(
            f"seed {seed}: {one.mean:+.2f}{unit} ({one.low:+.2f} to {one.high:+.2f})"
            for seed, one in found.items()
        )
        return Finding(f"{mine} - {theirs}: {words}", choose_word(flipped))

    return decide


def decide_all(
    *parts: Callable[[Mapping[str, Row]], Finding],
) -> Callable[[Mapping[str, Row]], Finding]:
    """A claim of several differences: seen where all are, not seen where none is, undecided where
    one has not run.
    """

    def decide(rows: Mapping[str, Row]) -> Finding:
        found = [part(rows) for part in parts]
        there = [one for one in found if one.word != NOT_RUN]
        if not there:
            return NOTHING
        words = {one.word for one in there}
        missing = len(found) - len(there)
        word = words.pop() if len(words) == 1 and not missing else UNDECIDED
        note = f"; {missing} of {len(found)} comparisons not run" if missing else ""
        return Finding(". ".join(one.measured for one in there) + note, word)

    return decide


def decide_dynamics(rows: Mapping[str, Row]) -> Finding:
    """Between epoch 10 and the end of plain training the mean falls and the minimum rises."""
    found = [row for name, row in rows.items() if "plain" in name and row["history"]]
    if not found:
        return NOTHING
    parts, words = [], set()
    for row in found:
        ten = next(one for one in row["history"] if one["epoch"] >= 10)
        last = row["history"][-1]
        mean = last["input_mean_test"] - ten["input_mean_test"]
        least = last["input_min_train"] - ten["input_min_train"]
        parts.append(
            f"{row['method']}, seed {row['seed']}, epoch {ten['epoch']} to {last['epoch']}: mean "
            f"{ten['input_mean_test']:.3f} to {last['input_mean_test']:.3f}, minimum "
            f"{ten['input_min_train']:.3f} to {last['input_min_train']:.3f}"
        )
        words.add(
            SEEN
            if mean < 0 < least
            else NOT_SEEN
            if mean >= 0 and least <= 0
            else f"half: the {'mean' if mean < 0 else 'minimum'} only"
        )
    return Finding("; ".join(parts), words.pop() if len(words) == 1 else UNDECIDED)


def decide_peaks(rows: Mapping[str, Row]) -> Finding:
    """AT's logit margins have two peaks, those of importance-aware methods one near 0."""
    parts, words = [], []
    for method in ("at", "mart", "mail+trades", "gairat"):
        for seed, row in seeds_of(rows, method).items():
            histogram = evaluation_of(row)["margins"]["histogram"]
            peaks, where = find_peaks(histogram["edges"], histogram["adversarial"])
            parts.append(f"{method}, seed {seed}: {peaks} at {where}")
            words.append(peaks == 2 if method == "at" else peaks == 1)
    if not words:
        return NOTHING
    if len({part.partition(",")[0] for part in parts}) < 2:
        return Finding("; ".join(parts), NOT_RUN)
    return Finding("; ".join(parts), SEEN if all(words) else UNDECIDED if any(words) else NOT_SEEN)


def find_peaks(edges: Sequence[float], counts: Sequence[int]) -> tuple[int, str]:
    """Return the number of peaks of a histogram, and their places.

    Counts are smoothed over three bars; a peak below a tenth of the highest is noise.
    """
    smooth = np.convolve(
        np.pad(np.array(counts, dtype=float), 1, mode="edge"), [1 / 3] * 3, "valid"
    )
    padded = np.pad(smooth, 1, constant_values=-1)
    tops = [
        place
        for place in range(len(smooth))
        if padded[place] < smooth[place] >= padded[place + 2] and smooth[place] > smooth.max() / 10
    ]
    middles = [(edges[place] + edges[place + 1]) / 2 for place in tops]
    return len(tops), " and ".join(f"{middle:.1f}" for middle in middles)


def decide_simple_problem(_: Mapping[str, Row]) -> Finding:
    """One-vs-the-rest's margin on the logits of one point, from its own record."""
    path = RESULTS / "paper-simple-problem.json"
    if not path.exists():
        return NOTHING
    record = json.loads(path.read_text())
    growth = [values[-1] for values in record["ratios_of_growth"].values()]
    ratios = [values[-1] for values in record["ratios"].values()]
    word = SEEN if all(abs(value - 2) < 1e-3 for value in growth) else NOT_SEEN
    return Finding(
        f"the margin grows {min(growth):.4f} to {max(growth):.4f} times as fast as that of the "
        f"cross-entropy; the ratio itself is {min(ratios):.2f} to {max(ratios):.2f} at t = 1e10",
        word,
    )


EMR, AVERAGE, AMM, SOVR = "EMR", "Average margin", "AMM", "SOVR"
LINF, MARGIN = "mnist-linf", "average-margin"
CLAIMS = (
    Claim(
        EMR,
        "raises effective margins",
        "Linf input margin (DeepFool), by image, beside AT",
        LINF,
        compare("emr", "at", "input_Linf"),
    ),
    Claim(
        EMR,
        "is more robust than AT, TRADES and two other regularisers (not named in what we could "
        "read; here input-gradient)",
        "robust accuracy, standard ladder",
        LINF,
        decide_all(
            *(compare("emr", other, "robust") for other in ("at", "trades", "input-gradient"))
        ),
    ),
    Claim(
        EMR,
        "adds to MART (and MAIL: not run)",
        "robust accuracy, standard ladder",
        LINF,
        compare("mart+emr", "mart", "robust"),
    ),
    Claim(
        AVERAGE,
        "in ordinary training the average margin falls while the minimum one rises",
        "L2 input margin (DeepFool): mean of 500 test images, minimum of 500 training images",
        MARGIN,
        decide_dynamics,
    ),
    Claim(
        AVERAGE,
        "the ramp raises the average margin",
        "L2 input margin (DeepFool), by image, with the ramp beside the constraint alone",
        MARGIN,
        decide_all(
            compare("mlp full", "mlp constraint", "input_L2"),
            compare("mlp full", "mlp plain", "input_L2"),
        ),
    ),
    Claim(
        AVERAGE,
        "which leads to better robustness",
        "robust accuracy at L2 1.0, standard ladder",
        MARGIN,
        decide_all(
            compare("mlp full", "mlp constraint", "robust"),
            compare("mlp full", "mlp plain", "robust"),
        ),
    ),
    Claim(
        AMM,
        "lowers the test error",
        "clean accuracy, by image, beside its twin without AMM",
        "amm",
        decide_all(
            compare("amm", "twin", "clean"), compare("amm 30 epochs", "twin 30 epochs", "clean")
        ),
    ),
    Claim(
        AMM,
        "widens margins",
        "L2 input margin (DeepFool), by image",
        "amm",
        decide_all(
            compare("amm", "twin", "input_L2"),
            compare("amm 30 epochs", "twin 30 epochs", "input_L2"),
        ),
    ),
    Claim(
        SOVR,
        "importance weighting lowers the margins of less important samples",
        "logit margin of the images in the upper half of AT's, beside AT",
        LINF,
        decide_all(
            *(
                compare(method, "at", "logit", lower=True, half="upper")
                for method in ("mart", "mail+trades", "gairat")
            )
        ),
    ),
    Claim(
        SOVR,
        "importance weighting loses under AutoAttack",
        "AutoAttack accuracy beside AT",
        LINF,
        decide_all(
            *(
                compare(method, "at", "AutoAttack", lower=True)
                for method in ("mart", "mail+trades", "gairat")
            )
        ),
    ),
    Claim(
        SOVR,
        "SOVR raises the margins of the important samples",
        "logit margin of the images in the lower half of AT's, beside AT",
        LINF,
        compare("sovr", "at", "logit", half="lower"),
    ),
    Claim(
        SOVR,
        "in a simple problem the margin of one-vs-the-rest is twice that of weighted cross-entropy",
        "gradient flow on the logits of one point",
        "simple-problem",
        decide_simple_problem,
    ),
    Claim(
        SOVR,
        "an earlier version: the histogram of AT's logit margins has two peaks, that of "
        "importance-aware methods one near 0",
        "peaks of the histogram at PGD-20's images of the test points",
        LINF,
        decide_peaks,
    ),
)
