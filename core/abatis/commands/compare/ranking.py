"""The numbers of a comparison: means over seeds, ranks, and the paired bootstrap against the baseline.

:func:`ranked` returns plain types: what ``compare.json`` holds, and all that the tables and the page are made from.
Accuracies are fractions, differences are points (percent of the test set), margins are in logits or pixels of [0, 1].
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abatis.commands.compare.finished_runs import SAME, Failed, Judged
from abatis.errors import UsageError

FORMAT = 1
RESAMPLES = 10_000
SEED = 0
HEADLINES = (
    "robust_acc",
    "autoattack_acc",
    "pgd20_acc",
)  # ranked by the first that every record has
VERDICTS = ("PASS", "-", "WARN", "FAIL")  # from best to worst; "-" is unknown
MEASURES = (
    "clean_acc",
    "pgd20_acc",
    "autoattack_acc",
    "robust_acc",
    "logit_margin",
    "input_margin_L2",
    "seconds",
    "peak_memory_mb",
)


def ranked(
    runs: Sequence[Judged], failed: Sequence[Failed], order: Sequence[str], baseline: str
) -> dict[str, Any]:
    """All numbers, the methods of ``order`` best first; raises UsageError where no measure is common to all runs.

    Methods of verdict FAIL, and behind them those without any result, come last and have no rank.
    """
    headline = next(
        (key for key in HEADLINES if all(run.record.get(key) is not None for run in runs)), None
    )
    if headline is None:
        raise UsageError(
            "the evaluations have no robust accuracy in common",
            fix="judge all of them by defense eval",
        )
    attack = _paired_on(runs)
    verdicts = {
        name: [run.record["per_point"][attack] for run in runs if run.method == name]
        for name in order
        if attack
    }
    rows = [
        _row(
            name,
            [run for run in runs if run.method == name],
            [run for run in failed if run.method == name],
        )
        for name in order
    ]
    for row in rows:
        mine, theirs = verdicts.get(row["method"]), verdicts.get(baseline)
        row["difference"] = (
            bootstrap(mine, theirs) if mine and theirs and row["method"] != baseline else None
        )
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
        "rows": rows,
    }


def _row(method: str, runs: Sequence[Judged], failed: Sequence[Failed]) -> dict[str, Any]:
    """One method; its rank and difference are not known yet."""
    numbers = [_numbers(run) for run in runs]
    verdicts = [run.record.get("verdict") or "-" for run in runs]
    return {
        "rank": None,
        "method": method,
        "seeds": [run.seed for run in runs],
        "runs": [str(run.folder) for run in runs],
        "failed": [{"seed": run.seed, "run": str(run.folder), "why": run.why} for run in failed],
        "verdict": max(verdicts, key=VERDICTS.index, default="-"),
        "adaptive_attack": sorted(
            {
                str(run.record["adaptive_attack"])
                for run in runs
                if run.record.get("adaptive_attack")
            }
        ),
        **{key: spread(row[key] for row in numbers) for key in MEASURES},
    }


def _numbers(run: Judged) -> dict[str, float | None]:
    """What one run measured; None where it did not."""
    measures = (run.record.get("margins") or {}).get("measures") or {}
    margins = {
        name: (measures.get(kind) or {}).get("mean")
        for name, kind in (("logit_margin", "logit"), ("input_margin_L2", "input_L2"))
    }
    accuracies = {key: run.record.get(key) for key in MEASURES if key.endswith("_acc")}
    return {**accuracies, **margins, "seconds": run.seconds, "peak_memory_mb": run.memory}


def spread(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Mean and sample deviation over the seeds that have a value, and each seed's value; None where none has one."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    if not known:
        return None
    return {
        "mean": statistics.fmean(known),
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "values": listed,
    }


def _paired_on(runs: Sequence[Judged]) -> str | None:
    """Whose verdicts are compared: no attack broke the point, else AutoAttack, else the strongest that all runs have."""
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
    """Difference of robust accuracy, mine less theirs, with its 95 % percentile interval, in points.

    mine, theirs: a list a seed, 0 or 1 a test point, all of one length n. The n points are drawn again with replacement,
    the same for both sides, whose accuracies are means over their seeds.
    """
    ours, others = (
        np.asarray(mine, dtype=np.int64),
        np.asarray(theirs, dtype=np.int64),
    )  # (seeds, n)
    seeds, other_seeds, n = len(ours), len(others), ours.shape[1]
    gains: NDArray[np.int64] = (
        ours.sum(axis=0) * other_seeds - others.sum(axis=0) * seeds
    )  # (n,), whole numbers: exact sums
    values, counts = np.unique(gains, return_counts=True)
    # drawing points with replacement draws their few distinct gains from a multinomial
    draws = np.random.default_rng(SEED).multinomial(
        n, counts / n, size=RESAMPLES
    )  # (RESAMPLES, distinct gains)
    unit = 100 / (n * seeds * other_seeds)
    low, high = (float(bound) for bound in np.quantile(draws @ values, (0.025, 0.975)) * unit)
    return {
        "points": int(gains.sum()) * unit,
        "interval": [low, high],
        "excludes_zero": low > 0 or high < 0,
    }


def notes(compared: Mapping[str, Any], runs: Sequence[Judged], core: Iterable[str]) -> list[str]:
    """What a reader must know that is no number: failures, refused ranks, unequal budgets, methods that did nothing.

    core: the options that are no plugin's.
    """
    rows = compared["rows"]
    said = [
        f"{row['method']}, seed {run['seed']} failed: {run['why']}"
        for row in rows
        for run in row["failed"]
    ]
    said += [
        f"{row['method']} has no rank: its verdict is FAIL, so its robust accuracy cannot be trusted"
        for row in rows
        if row["verdict"] == "FAIL"
    ]
    return [*said, *_unequal(runs, frozenset(core)), *_twins(runs), *_adaptive(rows)]


def _unequal(runs: Sequence[Judged], core: frozenset[str]) -> list[str]:
    """Options in which the trainings differ, other than the plugins and what only one of them has."""
    said = []
    trained = [run for run in runs if run.settings]
    for key in sorted({key for run in trained for key in run.settings} - SAME - {"plugin", "seed"}):
        found: dict[str, dict[str, None]] = {}
        for run in trained:
            if key in run.settings or key.partition(".")[0] in core:
                found.setdefault(str(run.settings.get(key, "not set")), {})[run.method] = None
        if len(found) > 1:
            values = (f"{value} ({', '.join(who)})" for value, who in found.items())
            said.append(f"trained with different {key}: {', '.join(values)}")
    return said


def _twins(runs: Sequence[Judged]) -> list[str]:
    """Methods that trained the same network as one before them, bit for bit: what they add did nothing within this budget."""
    first: dict[str, str] = {}  # by the weights
    same: dict[tuple[str, str], None] = {}
    for run in runs:
        weights = run.record.get("weights_sha256")
        if weights and first.setdefault(weights, run.method) != run.method:
            same[run.method, first[weights]] = None
    return [
        f"{method} left the weights of {other} unchanged: its options do nothing within this budget"
        for method, other in same
    ]


def _adaptive(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    without = [row["method"] for row in rows if row["runs"] and not row["adaptive_attack"]]
    return [f"no adaptive attack supplied: {', '.join(without)}"] if without else []
