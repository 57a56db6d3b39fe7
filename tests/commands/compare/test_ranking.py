"""Numbers of a comparison, worked out by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from abatis.commands.compare.finished_runs import FailedRun, JudgedRun
from abatis.commands.compare.ranking import (
    RESAMPLES,
    bootstrap,
    collect_notes,
    rank_methods,
    summarize,
)
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError
from tests.commands.compare.run_folders import margins, record

NOTHING = [0, 0, 0, 0]
ONE, TWO, THREE = [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]


def judged(
    method, robust, seed=0, *, old=False, seconds=None, memory=None, settings=None, **changes
):
    evaluation = record([1] * len(robust), robust, None if old else robust, **changes)
    return JudgedRun(
        method,
        Path(f"{method}-s{seed}"),
        Path(f"{method}-s{seed}"),
        evaluation,
        {"seed": seed, **(settings or {})},
        seconds,
        memory,
    )


def rows(runs, failed=(), order=None, baseline="at"):
    order = order or list(dict.fromkeys(run.method for run in runs))
    return {row["method"]: row for row in rank_methods(runs, failed, order, baseline)["rows"]}


def test_identical_verdicts_differ_by_exactly_nothing():
    found = bootstrap([ONE, TWO, THREE], [ONE, TWO, THREE])
    assert found == {"points": 0.0, "interval": [0.0, 0.0], "excludes_zero": False}


@pytest.mark.parametrize(
    ("mine", "theirs", "points"),
    [
        ([[1, 1, 1]], [[0, 0, 0]], 100.0),
        ([[0, 0, 0]], [[1, 1, 1]], -100.0),
        (
            [[1, 0, 1], [0, 1, 0]],
            [[0, 0, 0], [0, 0, 0]],
            50.0,
        ),  # every point is right with one of two seeds
        ([[1, 1]], [[0, 1], [1, 0]], 50.0),  # one seed against two
    ],
)
def test_a_difference_that_is_the_same_at_every_point_is_exact(mine, theirs, points):
    assert bootstrap(mine, theirs) == {
        "points": points,
        "interval": [points, points],
        "excludes_zero": True,
    }


def test_the_interval_of_a_binomial():
    """10 of 50 points gained and none lost: a resample gains Binomial(50, 1/5).

    Its 2.5 % and 97.5 % quantiles are 5 and 16 (cumulative 0.018 and 0.048 at 4 and 5, 0.969 and
    0.986 at 15 and 16).
    """
    found = bootstrap([[1] * 30 + [0] * 20], [[1] * 20 + [0] * 30])
    assert found["points"] == pytest.approx(20)
    assert found["interval"] == pytest.approx([10, 32])
    assert found["excludes_zero"]


@pytest.mark.parametrize(
    ("mine", "theirs"), [([1, 1, 0, 1, 0], [0, 0, 1, 1, 0]), ([1, 1, 1, 0], [0, 0, 0, 1])]
)
def test_all_resamples_of_a_small_case(mine, theirs):
    """n^n equally likely resamples, counted one by one."""
    gains = np.subtract(mine, theirs)
    every = [
        sum(gains[list(points)])
        for points in itertools.product(range(len(gains)), repeat=len(gains))
    ]
    low, high = np.quantile(every, (0.025, 0.975)) * 100 / len(gains)
    found = bootstrap([mine], [theirs])
    assert found["interval"] == pytest.approx([low, high])
    assert found["excludes_zero"] == (low > 0 or high < 0)
    assert not found["excludes_zero"]


def test_the_points_are_paired():
    """60 of 100 are right on both sides: at the same points the difference is certain, else not."""
    same, other = [1] * 60 + [0] * 40, [0] * 40 + [1] * 60
    assert bootstrap([same], [same])["interval"] == [0, 0]
    low, high = bootstrap([other], [same])["interval"]
    assert low < -10
    assert high > 10


def test_order_of_points_and_seeds_changes_nothing_and_many_points_are_no_trouble():
    draw = np.random.default_rng(7)
    mine, theirs = draw.integers(0, 2, (3, 10_000)), draw.integers(0, 2, (2, 10_000))
    found = bootstrap(mine.tolist(), theirs.tolist())
    order = draw.permutation(10_000)
    assert bootstrap(mine[::-1, order].tolist(), theirs[::-1, order].tolist()) == found
    assert found["points"] == pytest.approx(100 * (mine.mean() - theirs.mean()))
    gains = 100 * (mine.mean(axis=0) - theirs.mean(axis=0))
    half = 1.96 * gains.std() / 100  # the normal approximation, sqrt(10,000) = 100
    assert found["interval"] == pytest.approx(
        [found["points"] - half, found["points"] + half], abs=0.05 * half
    )


def test_mean_deviation_and_values_over_seeds():
    assert summarize([0.4, 0.6]) == {
        "mean": 0.5,
        "sd": pytest.approx(0.2 / 2**0.5),
        "values": [0.4, 0.6],
    }
    assert summarize([2.0]) == {"mean": 2.0, "sd": None, "values": [2.0]}
    assert summarize([None, 3.0]) == {"mean": 3.0, "sd": None, "values": [None, 3.0]}
    assert summarize([None]) is None


def test_a_row_holds_every_number_of_its_runs():
    runs = [
        judged(
            "at", TWO, 0, seconds=3.0, memory=100, margins=margins(1.0, 0.2), autoattack_acc=0.5
        ),
        judged(
            "at",
            THREE,
            1,
            seconds=5.0,
            memory=300,
            margins=margins(2.0, None),
            autoattack_acc=0.25,
            verdict="WARN",
        ),
    ]
    row = rows(runs)["at"]
    assert row["seeds"] == [0, 1]
    assert row["runs"] == ["at-s0", "at-s1"]
    means = {key: value["mean"] for key, value in row.items() if isinstance(value, dict)}
    assert means == {
        "clean_acc": 1,
        "pgd20_acc": 0.625,
        "autoattack_acc": 0.375,
        "robust_acc": 0.625,
        "logit_margin": 1.5,
        "input_margin_L2": 0.2,
        "seconds": 4,
        "peak_memory_mb": 200,
    }
    assert row["robust_acc"]["sd"] == pytest.approx(0.25 / 2**0.5)
    assert row["verdict"] == "WARN"


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        (["PASS", "PASS"], "PASS"),
        (["PASS", None], "-"),
        (["WARN", None], "WARN"),
        (["UNDECIDED", "PASS"], "UNDECIDED"),
        (["UNDECIDED", None], "UNDECIDED"),
        (["UNDECIDED", "WARN"], "WARN"),
        (["WARN", "FAIL", "UNDECIDED"], "FAIL"),
        (["WARN", "FAIL", "PASS"], "FAIL"),
    ],
)
def test_the_verdict_of_a_method_is_the_worst_of_its_runs(verdicts, worst):
    runs = [judged("at", ONE, seed, verdict=verdict) for seed, verdict in enumerate(verdicts)]
    assert rows(runs)["at"]["verdict"] == worst


def test_the_best_comes_first_and_equals_share_a_rank():
    runs = [judged("at", ONE), judged("b", TWO), judged("c", THREE), judged("d", TWO)]
    assert [(name, row["rank"]) for name, row in rows(runs).items()] == [
        ("c", 1),
        ("b", 2),
        ("d", 2),
        ("at", 4),
    ]


def test_what_failed_has_no_rank_and_comes_last():
    runs = [judged("masked", THREE, verdict="FAIL"), judged("at", ONE), judged("b", TWO)]
    found = rows(
        runs,
        [FailedRun("broken", 0, Path("broken-s0"), "NotFiniteError: the loss is NaN")],
        ["broken", "masked", "at", "b"],
    )
    assert [(name, row["rank"]) for name, row in found.items()] == [
        ("b", 1),
        ("at", 2),
        ("masked", None),
        ("broken", None),
    ]
    assert found["broken"]["robust_acc"] is None
    assert found["broken"]["failed"] == [
        {"seed": 0, "run": "broken-s0", "why": "NotFiniteError: the loss is NaN"}
    ]
    assert found["masked"]["difference"]["points"] == 50


def test_differences_are_taken_from_the_baseline():
    runs = [judged("at", ONE), judged("b", THREE)]
    assert rows(runs)["at"]["difference"] is None
    assert rows(runs)["b"]["difference"]["points"] == 50
    assert rows(runs, baseline="b")["at"]["difference"]["points"] == -50


def test_the_measure_is_the_strongest_that_all_records_have():
    new, old = judged("at", TWO), judged("b", ONE, old=True)
    assert rank_methods([new], [], ["at"], "at")["headline"] == "robust_acc"
    mixed = rank_methods([new, old], [], ["at", "b"], "at")
    assert (mixed["headline"], mixed["paired_on"]) == ("pgd20_acc", "PGD-20")
    assert [row["method"] for row in mixed["rows"]] == ["at", "b"]
    stronger = [judged(name, ONE, old=True, autoattack_acc=0.25) for name in ("at", "b")]
    assert rank_methods(stronger, [], ["at", "b"], "at")["headline"] == "autoattack_acc"


def test_the_verdicts_compared_are_the_strongest_that_all_records_have():
    weak, strong = (
        {"clean": THREE, "PGD-20": TWO, "Square": ONE},
        {"clean": THREE, "PGD-20": TWO, "Square": NOTHING},
    )
    runs = [judged("at", ONE, per_point=weak), judged("b", ONE, per_point=strong)]
    assert rank_methods(runs, [], ["at", "b"], "at")["paired_on"] == "Square"
    assert rows(runs)["b"]["difference"]["points"] == -25
    runs[1].record["per_point"].pop("PGD-20")
    runs[0].record["per_point"].pop("Square")
    assert rank_methods(runs, [], ["at", "b"], "at")["paired_on"] is None
    assert rows(runs)["b"]["difference"] is None


def test_nothing_in_common_is_said():
    with pytest.raises(UsageError, match="in common"):
        rank_methods(
            [judged("at", ONE), judged("b", ONE, robust_acc=None, pgd20_acc=None)],
            [],
            ["at", "b"],
            "at",
        )


def test_no_run_at_all_still_gives_its_row():
    found = rank_methods([], [FailedRun("at", 0, Path("at-s0"), "why")], ["at"], "at")
    assert found["rows"][0]["rank"] is None
    assert found["rows"][0]["failed"][0]["why"] == "why"


def test_notes_say_what_the_numbers_do_not():
    runs = [
        judged("at", ONE, settings={"epochs": 2, "threat": "Linf:0.1"}, weights_sha256="x"),
        judged(
            "b",
            ONE,
            settings={"epochs": 3, "threat": "Linf:0.1", "limit": 9, "b.weight": 1},
            weights_sha256="x",
        ),
        judged(
            "c",
            TWO,
            settings={"epochs": 2, "threat": "Linf:0.1", "b.weight": 2},
            weights_sha256="y",
            verdict="FAIL",
            adaptive_attack="mine",
        ),
    ]
    failed = [FailedRun("c", 1, Path("c-s1"), "out of memory")]
    said = collect_notes(
        rank_methods(runs, failed, ["at", "b", "c"], "at"), runs, RunConfig.model_fields
    )
    assert said == [
        "c, seed 1 failed: out of memory",
        "c has no rank: its verdict is FAIL, so its robust accuracy cannot be trusted",
        "b is tied with at: the difference is within the 95 % interval over test images",
        "trained with different b.weight: 1 (b), 2 (c)",
        "trained with different epochs: 2 (at, c), 3 (b)",
        "trained with different limit: not set (at, c), 9 (b)",
        "b has the same weights as at: its options had no effect in this training",
        "eval.json has no checksum (an older version wrote it); its numbers fit its points:"
        " at-s0, b-s0, c-s0",
        "eval.json does not say which images were judged: at-s0, b-s0, c-s0",
        "no adaptive attack supplied: at, b",
    ]


def test_the_resamples_are_what_the_record_says():
    found = rank_methods([judged("at", ONE)], [], ["at"], "at")
    assert (found["resamples"], found["bootstrap_seed"]) == (RESAMPLES, 0) == (10_000, 0)


def under(first, other, verdict="PASS"):
    """An evaluation whose second threat was withstood by the points of ``other``."""
    key = "robust_acc_upper" if verdict == "FAIL" else "robust_acc"
    both = [int(a and b) for a, b in zip(first, other, strict=True)]
    part = {"threat": "L2:1", key: sum(other) / 4, "verdict": verdict}
    union = {"threats": ["Linf:0.1", "L2:1"], key: sum(both) / 4, "verdict": verdict}
    return {"under": {"L2:1": part}, "union": union}


def notes_of(runs):
    compared = rank_methods(runs, [], list(dict.fromkeys(run.method for run in runs)), "at")
    return [text for text in collect_notes(compared, runs, ()) if "threat" in text or "L2" in text]


def test_further_threats_are_shown_and_the_first_one_ranks():
    last = [0, 0, 0, 1]
    runs = [
        judged("at", TWO, **under(TWO, last)),
        judged("at", TWO, 1, **under(TWO, THREE)),
        judged("b", ONE, **under(ONE, THREE, "FAIL")),
    ]
    assert notes_of(runs) == [
        "methods are ranked under the first threat, Linf:0.1, alone",
        "robust under L2:1: at 50.00 %, b at most 75.00 %, not to be believed",
        "robust under all of Linf:0.1 and L2:1: at 25.00 %, b at most 25.00 %, not to be believed",
    ]
    assert notes_of([judged("at", TWO), judged("b", ONE)]) == []
    mixed = [judged("at", TWO, **under(TWO, ONE)), judged("b", ONE)]
    assert notes_of(mixed)[1:] == [
        "further threats differ and are not compared: at-s0 (L2:1), b-s0 (none)"
    ]
