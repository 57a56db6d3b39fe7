"""The numbers of a comparison: means over seeds, ranks, and the paired bootstrap.

:func:`rank_methods` returns plain types: the contents of ``compare.json``, from which the tables
and the page are made. Accuracies are fractions, differences are percentage points, margins are in
logits or in pixel units of [0, 1].
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abatis.commands.compare.finished_runs import FailedRun, JudgedRun
from abatis.commands.compare.further_threats import describe_further_threats
from abatis.commands.compare.ties import (
    describe_ties,
    list_at_chance,
    list_ties,
    measure_chance,
)
from abatis.config.option_sets import FREE_IN_COMPARISON, VARIED_IN_COMPARISON
from abatis.errors import UsageError
from abatis.report.eval_record import RECORD, describe_check
from abatis.report.numbers import ROBUST, find_headline, list_compared, list_ranked
from abatis.report.verdicts import TOO_LITTLE, find_worst

FORMAT = 1
RESAMPLES = 10_000
SEED = 0
OTHER_MEASURES = ("logit_margin", "input_margin_L2", "seconds", "peak_memory_mb")

Outcomes = Mapping[str, Sequence[Sequence[int]]]
"""By method, one list per seed, with 0 or 1 for each test image."""


def rank_methods(
    runs: Sequence[JudgedRun], failed: Sequence[FailedRun], order: Sequence[str], baseline: str
) -> dict[str, Any]:
    """Rank the methods, best first.

    Methods with the verdict FAIL come last and have no rank; after them come those without results.
    A method with the verdict UNDECIDED has a rank: nothing speaks against its number but the few
    points behind it, which the intervals show.

    Args:
        runs: The evaluated runs of all methods.
        failed: The runs that failed.
        order: The names of all methods.
        baseline: The method that the others are compared with.

    Returns:
        The contents of ``compare.json``, without the notes.

    Raises:
        UsageError: No number is common to all runs.
    """
    headline = _choose_headline(runs)
    attack = _paired_on(runs)
    rows = [
        _row(
            name,
            [run for run in runs if run.method == name],
            [run for run in failed if run.method == name],
        )
        for name in order
    ]
    outcomes = _collect_outcomes(rows, runs, attack)
    _add_differences(rows, outcomes, baseline)
    ranked = _rank(rows, headline)
    images = runs[0].record.get("n") or 0 if runs else 0
    ties = list_ties(ranked, headline, images, lambda *pair: _compare(outcomes, *pair))
    for row in rows:
        row["tied_with"] = ties.get(row["method"], [])
    chance = measure_chance(runs)
    return {
        "format": FORMAT,
        "judged": {
            key: runs[0].record.get(key) if runs else None
            for key in ("data", "n", "threat", "ladder")
        },
        "headline": headline,
        "baseline": baseline,
        "paired_on": attack,
        "resamples": RESAMPLES,
        "bootstrap_seed": SEED,
        "chance": chance,
        "at_chance": list_at_chance(ranked, headline, images, chance),
        "rows": rows,
    }


def _rank(rows: list[dict[str, Any]], headline: str) -> list[dict[str, Any]]:
    """Sort the rows, best first, give ranks, and return the rows that have one."""
    rows.sort(
        key=lambda row: (
            row[headline] is None,
            row["verdict"] == "FAIL",
            -row[headline]["mean"] if row[headline] else 0,
        )
    )
    means = [row[headline]["mean"] for row in rows if row[headline] and row["verdict"] != "FAIL"]
    for row, mean in zip(rows, means, strict=False):
        row["rank"] = 1 + sum(other > mean for other in means)
    return rows[: len(means)]


def _choose_headline(runs: Sequence[JudgedRun]) -> str:
    """The strongest number that all runs have; raises UsageError where there is none."""
    for number in list_ranked():
        if all(_numbers(run)[number.key] is not None for run in runs):
            return number.key
    raise UsageError(
        "the evaluations have no robust accuracy in common",
        fix="evaluate all of them with defense eval",
    )


def _collect_outcomes(
    rows: Sequence[Mapping[str, Any]], runs: Sequence[JudgedRun], attack: str | None
) -> Outcomes:
    return {
        row["method"]: [
            run.record["per_point"][attack] for run in runs if run.method == row["method"]
        ]
        for row in rows
        if attack
    }


def _add_differences(rows: Sequence[dict[str, Any]], outcomes: Outcomes, baseline: str) -> None:
    """Give each row its difference from the baseline; None for the baseline and without results."""
    for row in rows:
        row["difference"] = (
            None if row["method"] == baseline else _compare(outcomes, row, {"method": baseline})
        )


def _compare(
    outcomes: Outcomes, row: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, Any] | None:
    mine, theirs = outcomes.get(row["method"]), outcomes.get(other["method"])
    return bootstrap(mine, theirs) if mine and theirs else None


def _row(method: str, runs: Sequence[JudgedRun], failed: Sequence[FailedRun]) -> dict[str, Any]:
    """The row of one method, still without its rank and difference."""
    numbers = [_numbers(run) for run in runs]
    return {
        "rank": None,
        "method": method,
        "seeds": [run.seed for run in runs],
        "runs": [str(run.folder) for run in runs],
        "failed": [{"seed": run.seed, "run": str(run.folder), "why": run.why} for run in failed],
        "verdict": find_worst(run.record.get("verdict") for run in runs),
        "adaptive_attack": sorted(
            {
                str(run.record["adaptive_attack"])
                for run in runs
                if run.record.get("adaptive_attack")
            }
        ),
        **{
            key: summarize(row[key] for row in numbers)
            for key in (*(number.key for number in list_compared()), *OTHER_MEASURES)
        },
    }


def _numbers(run: JudgedRun) -> dict[str, float | None]:
    """The numbers of one run; None where one was not measured."""
    measures = (run.record.get("margins") or {}).get("measures") or {}
    margins = {
        name: (measures.get(kind) or {}).get("mean")
        for name, kind in (("logit_margin", "logit"), ("input_margin_L2", "input_L2"))
    }
    accuracies = {number.key: run.record.get(number.key) for number in list_compared()}
    accuracies[ROBUST.key] = find_headline(run.record)
    return {**accuracies, **margins, "seconds": run.seconds, "peak_memory_mb": run.memory}


def summarize(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Mean and sample standard deviation over seeds, and the value of each seed.

    Seeds without a value are left out; None if no seed has one.
    """
    listed = list(values)
    known = [value for value in listed if value is not None]
    if not known:
        return None
    return {
        "mean": statistics.fmean(known),
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "values": listed,
    }


def _paired_on(runs: Sequence[JudgedRun]) -> str | None:
    """The attack whose outcomes, image by image, the bootstrap compares.

    ``robust`` (no attack succeeded) if all runs have it, then AutoAttack, then the strongest attack
    that all runs have.
    """
    common: set[str] | None = None
    for run in runs:
        mine = set(run.record.get("per_point") or ())
        common = mine if common is None else common & mine
    common = (common or set()) - {"clean"}
    preferred = next((name for name in ("robust", "AutoAttack") if name in common), None)
    right = {
        name: sum(sum(run.record["per_point"][name]) for run in runs) for name in sorted(common)
    }
    return preferred or min(right, key=lambda name: right[name], default=None)


def bootstrap(mine: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Difference of robust accuracy, ``mine`` minus ``theirs``, by a paired bootstrap.

    The n test images are resampled with replacement, the same for both sides. The accuracy of a
    side is the mean over its seeds.

    Args:
        mine: One list per seed, with 0 or 1 for each of the n test images.
        theirs: The same for the other method; it may have another number of seeds.

    Returns:
        ``points``, the difference in percentage points; ``interval``, its 95 % percentile interval;
        ``excludes_zero``, whether 0 is outside of it.
    """
    ours = np.asarray(mine, dtype=np.int64)  # (seeds, n)
    others = np.asarray(theirs, dtype=np.int64)  # (other seeds, n)
    seeds, other_seeds, n = len(ours), len(others), ours.shape[1]
    # (n,), in whole numbers, so that sums are exact
    gains: NDArray[np.int64] = ours.sum(axis=0) * other_seeds - others.sum(axis=0) * seeds
    values, counts = np.unique(gains, return_counts=True)
    # resampling the images is a multinomial draw of their few distinct gains
    draws = np.random.default_rng(SEED).multinomial(n, counts / n, size=RESAMPLES)
    unit = 100 / (n * seeds * other_seeds)
    low, high = (float(bound) for bound in np.quantile(draws @ values, (0.025, 0.975)) * unit)
    return {
        "points": int(gains.sum()) * unit,
        "interval": [low, high],
        "excludes_zero": low > 0 or high < 0,
    }


def collect_notes(
    compared: Mapping[str, Any], runs: Sequence[JudgedRun], core: Iterable[str]
) -> list[str]:
    """What a reader must know besides the numbers.

    Failed runs, methods without a rank or a verdict, ties, numbers at chance, unequal settings,
    methods that had no effect, and methods without an adaptive attack; core: the names of the
    options of the core.
    """
    rows = compared["rows"]
    notes = [
        f"{row['method']}, seed {run['seed']} failed: {run['why']}"
        for row in rows
        for run in row["failed"]
    ]
    notes += [
        f"{row['method']} has no rank: its verdict is FAIL, so its robust accuracy cannot be "
        "trusted"
        for row in rows
        if row["verdict"] == "FAIL"
    ]
    notes += [
        f"{row['method']}: {TOO_LITTLE} whether its robust accuracy can be trusted (see the "
        "reports of its runs); it has a rank all the same"
        for row in rows
        if row["verdict"] == "UNDECIDED"
    ]
    notes += describe_ties(compared)
    notes += describe_further_threats(runs)
    return [
        *notes,
        *_unequal(runs, frozenset(core)),
        *_twins(runs),
        *_unchecked(runs),
        *_adaptive(rows),
    ]


def _unchecked(runs: Sequence[JudgedRun]) -> list[str]:
    """What could not be checked about records that an older version wrote."""
    found: dict[str, list[str]] = {}
    for run in runs:
        texts = [describe_check(run.record)]
        if run.record.get("points_sha256") is None:
            texts.append(f"{RECORD} does not say which images were judged")
        for text in filter(None, texts):
            found.setdefault(text, []).append(str(run.folder))
    return [f"{text}: {', '.join(folders)}" for text, folders in found.items()]


def _unequal(runs: Sequence[JudgedRun], core: frozenset[str]) -> list[str]:
    """Options in which the trainings differ, apart from the plugins and their own options."""
    notes = []
    trained = [run for run in runs if run.settings]
    keys = {key for run in trained for key in run.settings}
    for key in sorted(keys - FREE_IN_COMPARISON - VARIED_IN_COMPARISON):
        found: dict[str, dict[str, None]] = {}
        for run in trained:
            if key in run.settings or key.partition(".")[0] in core:
                found.setdefault(str(run.settings.get(key, "not set")), {})[run.method] = None
        if len(found) > 1:
            values = (f"{value} ({', '.join(who)})" for value, who in found.items())
            notes.append(f"trained with different {key}: {', '.join(values)}")
    return notes


def _twins(runs: Sequence[JudgedRun]) -> list[str]:
    """Methods whose network equals that of an earlier one, bit for bit: they had no effect."""
    first: dict[str, str] = {}  # by the weights
    same: dict[tuple[str, str], None] = {}
    for run in runs:
        weights = run.record.get("weights_sha256")
        if weights and first.setdefault(weights, run.method) != run.method:
            same[run.method, first[weights]] = None
    return [
        f"{method} has the same weights as {other}: its options had no effect in this training"
        for method, other in same
    ]


def _adaptive(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    without = [row["method"] for row in rows if row["runs"] and not row["adaptive_attack"]]
    return [f"no adaptive attack supplied: {', '.join(without)}"] if without else []
