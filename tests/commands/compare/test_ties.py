"""Which methods a comparison cannot tell apart: nothing is called the best where none is."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from abatis.commands.compare.finished_runs import JudgedRun
from abatis.commands.compare.page import make_page
from abatis.commands.compare.ranking import collect_notes, rank_methods
from abatis.commands.compare.tables import to_markdown, write_legend
from abatis.commands.compare.ties import OVER_IMAGES, OVER_SEEDS, measure_chance
from abatis.config.run_config import RunConfig
from tests.commands.compare.run_folders import record

N = 200
TEN = {"per_class": {"n": [N // 10] * 10}}


def judged(method, right, seed=0, **changes):
    """A run of which the first ``right`` of 200 images withstand every attack."""
    flags = [int(place < right) for place in range(N)]
    evaluation = record([1] * N, flags, flags, **{**TEN, **changes})
    folder = Path(f"{method}-s{seed}")
    return JudgedRun(method, folder, folder, evaluation, {"seed": seed}, None, None)


def compare(*runs):
    order = list(dict.fromkeys(run.method for run in runs))
    found = rank_methods(runs, [], order, order[0])
    return {**found, "notes": collect_notes(found, runs, RunConfig.model_fields)}


def lead_of(compared):
    """The heading of the page, and all of its head."""
    head = unescape(make_page(compared).partition("<section")[0]).replace("\u00a0", " ")
    return re.search(r"(best|highest|tied|the only)[^<]*", head).group(), head


@pytest.mark.parametrize(
    ("runs", "within"),
    [
        # one seed: 6 images gained of 200 and none lost exclude 0, 2 do not
        ((("a", 100, 0), ("b", 94, 0)), ""),
        ((("a", 100, 0), ("b", 98, 0)), OVER_IMAGES),
        # means 100 and 90, standard deviation of b 14.1: more than the lead
        ((("a", 100, 0), ("a", 100, 1), ("b", 80, 0), ("b", 100, 1)), OVER_SEEDS),
        # means 100 and 85, standard deviation of b 7.1: less than the lead
        ((("a", 100, 0), ("a", 100, 1), ("b", 80, 0), ("b", 90, 1)), ""),
        # no deviation over seeds, but the images do not tell 100 from 99
        ((("a", 100, 0), ("a", 100, 1), ("b", 99, 0), ("b", 99, 1)), OVER_IMAGES),
        # equal
        ((("a", 100, 0), ("b", 100, 0)), OVER_IMAGES),
    ],
)
def test_a_lead_within_the_deviation_is_a_tie(runs, within):
    compared = compare(*(judged(*run) for run in runs))
    first, second = compared["rows"]
    assert first["tied_with"] == []
    assert second["tied_with"] == ([{"method": "a", "within": within}] if within else [])
    heading, head = lead_of(compared)
    notes = [note for note in write_legend(compared) if "tied" in note]
    if within:
        assert heading == f"tied: a, b (differences within {within})"
        assert "best" not in head
        assert notes == [f"b is tied with a: the difference is within {within}"]
        assert notes[0] in to_markdown(compared)
    else:
        assert heading == "best of 2: a"
        assert notes == []


def test_only_those_that_are_tied_with_the_first_stand_beside_it():
    """b is tied with a, and c with b, but c is behind a."""
    compared = compare(judged("a", 100), judged("c", 94), judged("b", 97))
    assert lead_of(compared)[0] == f"tied: a, b (differences within {OVER_IMAGES})"
    assert [note for note in compared["notes"] if "tied" in note] == [
        f"b is tied with a: the difference is within {OVER_IMAGES}",
        f"c is tied with b: the difference is within {OVER_IMAGES}",
    ]


def test_without_outcomes_by_image_the_intervals_must_not_overlap():
    """100 of 200 is 43 to 57 %; 80 of 200 is 33 to 47 %, 60 of 200 24 to 37 %."""
    for right, tied in ((80, True), (60, False)):
        compared = compare(judged("a", 100, per_point={}), judged("b", right, per_point={}))
        assert compared["paired_on"] is None
        assert bool(compared["rows"][1]["tied_with"]) == tied


def test_methods_without_a_rank_are_tied_with_nobody():
    compared = compare(judged("a", 100), judged("masked", 100, verdict="FAIL"))
    assert [row["tied_with"] for row in compared["rows"]] == [[], []]
    assert lead_of(compared)[0] == "the only method with a rank: a"


@pytest.mark.parametrize(("right", "low"), [(20, True), (27, True), (30, False), (0, True)])
def test_what_is_not_above_chance_is_not_the_best(right, low):
    """Of 200 images in ten classes: 27 are 9.4 to 18.9 %, 30 are 10.7 to 20.6 %."""
    compared = compare(judged("a", right), judged("b", 0, verdict="FAIL"))
    assert compared["at_chance"] == (["a"] if low else [])
    head = lead_of(compared)[1]
    assert ("not above chance (10.00 %)" in head) == low
    notes = [note for note in write_legend(compared) if "chance" in note]
    assert (
        notes
        == [
            "not above chance (10.0 %, the accuracy of always answering the most common class) by "
            "the 95 % interval over test images: a"
        ]
        * low
    )


def test_the_highest_of_several_at_chance_is_not_called_the_best():
    compared = compare(judged("a", 24), judged("b", 4))
    heading, head = lead_of(compared)
    assert heading == "highest of 2: a"
    assert "best" not in head


def test_chance_is_what_the_most_common_class_gives():
    assert measure_chance([judged("a", 1)]) == 0.1
    assert measure_chance([judged("a", 1, per_class={"n": [150, 50]})]) == 0.75
    assert measure_chance([judged("a", 1, per_class=None, num_classes=4)]) == 0.25
    assert measure_chance([judged("a", 1, per_class=None)]) is None
    assert measure_chance([]) is None


def test_a_method_without_a_verdict_has_a_rank_and_says_so():
    compared = compare(judged("a", 100, verdict="UNDECIDED"), judged("b", 50))
    assert [row["rank"] for row in compared["rows"]] == [1, 2]
    heading, head = lead_of(compared)
    assert heading == "highest of 2: a"
    assert '<div class="verdict quiet">' in head
    assert "too little to judge" in head
    assert "PASS" not in head
    text = to_markdown(compared)
    assert "| too little to judge |" in text
    assert "UNDECIDED" not in text
    assert "a: too little to judge whether its robust accuracy can be trusted" in text
