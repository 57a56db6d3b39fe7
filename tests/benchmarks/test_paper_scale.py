"""Rows at the papers' own scale: what decides a claim, and the page that is made of the records."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch.nn.functional as F
from benchmarks.paper_scale import claims, page
from benchmarks.paper_scale.__main__ import split_threats
from benchmarks.paper_scale.claims import (
    NOT_RUN,
    NOT_SEEN,
    SEEN,
    UNDECIDED,
    Difference,
    choose_word,
    compare,
    decide_all,
    decide_dynamics,
    find_difference,
    find_peaks,
)
from benchmarks.paper_scale.rows import ROWS
from benchmarks.paper_scale.simple_problem import LABEL, follow

from abatis_sovr.loss import one_versus_rest


def make_row(
    method, seed=0, *, robust=(1, 1, 0, 0), logit=(4.0, 3.0, 2.0, 1.0), history=(), verdict="PASS"
):
    """A row as it is in a record, of four images."""
    judged = {
        "clean_acc": 1.0,
        "autoattack_acc": sum(robust) / 4,
        "robust_acc": sum(robust) / 4 if verdict == "PASS" else None,
        "verdict": verdict,
        "threat": "L2:1.0",
        "per_point": {"robust": list(robust), "clean": [1, 1, 1, 1]},
        "margins": {
            "per_point": {"logit": list(logit), "input_L2": [1.0, 2.0, None, 3.0]},
            "measures": {"logit": {"mean": 2.5}, "input_L2": {"mean": 2.0}},
            "deepfool5_L2": {"mean": 1.5},
            "rho_adv_L2": 0.25,
            "histogram": {"edges": [0, 1, 2], "clean": [1, 3], "adversarial": [2, 2]},
        },
    }
    return {
        "method": method,
        "seed": seed,
        "exam": {"L2:1.0": 0.5},
        "history": list(history),
        "evaluations": {"L2:1.0": judged},
    }


def test_a_difference_is_taken_image_by_image():
    """Gaps 1, 2, 3: mean 2, deviation 1, and t of 2 degrees of freedom is 4.3027."""
    found = find_difference(np.array([2.0, 4, 6, np.nan]), np.array([1.0, 2, 3, 4]))
    assert found.mean == 2
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


@pytest.mark.parametrize(
    ("bounds", "word"),
    [
        ([(1, 2), (0.1, 3)], SEEN),
        ([(1, 2), (-0.1, 3)], UNDECIDED),
        ([(-2, -1)], NOT_SEEN),
        ([(-2, -1), (1, 2)], UNDECIDED),
        ([], NOT_RUN),
    ],
)
def test_a_claim_needs_every_seed(bounds, word):
    assert choose_word(Difference((low + high) / 2, low, high) for low, high in bounds) == word


def test_two_methods_are_compared_on_the_seeds_that_both_have():
    rows = {
        "a": make_row("emr", 0, logit=(5.0, 4.5, 3.5, 1.5)),
        "b": make_row("at", 0),
        "c": make_row("emr", 1),
    }
    found = compare("emr", "at", "logit")(rows)
    assert "seed 0: +1.12" in found.measured
    assert "seed 1" not in found.measured
    assert found.word == SEEN  # gaps 1, 1.5, 1.5 and 0.5
    assert compare("emr", "at", "logit", lower=True)(rows).word == NOT_SEEN
    assert compare("emr", "at", "robust")(rows).word == UNDECIDED  # no gap at all
    assert "+1.00" in compare("emr", "at", "logit", half="lower")(rows).measured  # 1.5 and 0.5
    assert compare("emr", "mart", "logit")(rows).word == NOT_RUN


def test_a_claim_of_several_differences_is_seen_where_all_are():
    rows = {"a": make_row("emr", logit=(6.0, 5.5, 4.0, 3.0)), "b": make_row("at")}
    seen, undecided = compare("emr", "at", "logit"), compare("emr", "at", "robust")
    missing = compare("emr", "mart", "logit")
    assert decide_all(seen, seen)(rows).word == SEEN
    assert decide_all(seen, undecided)(rows).word == UNDECIDED
    found = decide_all(seen, missing)(rows)
    assert found.word == UNDECIDED
    assert found.measured.endswith("1 of 2 comparisons not run")
    assert decide_all(missing)(rows).word == NOT_RUN


@pytest.mark.parametrize(
    ("mean", "least", "word"),
    [
        (0.9, -1.0, SEEN),
        (1.2, -3.0, NOT_SEEN),
        (0.9, -3.0, "half: the mean only"),
        (1.2, -1.0, "half: the minimum only"),
    ],
)
def test_the_dynamics_are_read_from_epoch_10_to_the_end(mean, least, word):
    history = [
        {"epoch": epoch, "input_mean_test": a, "input_min_train": b}
        for epoch, a, b in ((1, 5.0, -5.0), (10, 1.0, -2.0), (200, mean, least))
    ]
    rows = {"mlp plain": make_row("mlp plain", history=history)}
    assert decide_dynamics(rows).word == word


def test_peaks_of_a_histogram():
    edges = list(range(11))
    assert find_peaks(edges, [0, 0, 9, 0, 0, 0, 0, 9, 0, 0])[0] == 2
    assert find_peaks(edges, [0, 1, 3, 6, 9, 9, 6, 3, 1, 0])[0] == 1
    assert find_peaks(edges, [0, 90, 90, 90, 0, 0, 1, 0, 0, 0])[0] == 1  # a single point is noise


def test_the_margin_of_cross_entropy_and_of_one_versus_rest_at_late_times():
    """dm/dt = (K / (K - 1)) / (1 + ...): each factor of 100 in time adds log 100, or twice that."""
    entropy = follow(lambda z: F.cross_entropy(z, LABEL, reduction="none"))
    ovr = follow(lambda z: one_versus_rest(z, LABEL))
    assert entropy[-1] - entropy[-2] == pytest.approx(math.log(100), rel=1e-4)
    assert ovr[-1] - ovr[-2] == pytest.approx(2 * math.log(100), rel=1e-4)


def test_a_record_keeps_what_was_found_under_every_threat():
    other = {"threat": "L2:2.0", "robust_acc": 0.25, "attacks": {"PGD-20": {}}}
    found = {"threat": "L2:1.0", "robust_acc": 0.5, "points": [3], "under": {"L2:2.0": other}}
    assert split_threats(found) == {
        "L2:1.0": {"threat": "L2:1.0", "robust_acc": 0.5},
        "L2:2.0": {"threat": "L2:2.0", "robust_acc": 0.25},
    }


def test_rows_have_one_name_each():
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_page_has_what_there_is_and_what_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "PICTURES", tmp_path)
    history = [
        {"epoch": epoch, "input_mean_test": 1 / epoch, "input_min_train": -1 / epoch}
        for epoch in (1, 10, 20)
    ]
    rows = {
        "average-margin-mlp-plain-0": make_row("mlp plain", history=history),
        "average-margin-mlp-full-0": make_row("mlp full", robust=(1, 1, 1, 0), verdict="FAIL"),
    }
    (tmp_path / "paper-average-margin.json").write_text(json.dumps({"rows": rows}))
    text = page.write_page()
    assert (
        "| mlp plain | 0 | 100.00 | 50.00 | 50.00 | 50.00 | PASS | 2.50 | 2.00 | 1.50 | 0.250 |"
        in text
    )
    assert "| mlp full | 0 | 100.00 | 50.00 | 75.00 | none | FAIL |" in text
    assert "mlp plain, seed 0, epoch 10 to 20: mean 0.100 to 0.050" in text
    assert "Not run: mlp constraint, seed 0;" in text
    assert "Not run: at, seed 0; emr, seed 0;" in text
    plot = (tmp_path / "evidence-average-margin-mean.svg").read_text()
    assert plot.startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_the_committed_page_is_that_of_the_committed_records(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PICTURES", tmp_path)
    assert page.PAGE.read_text() == page.write_page()
