"""The line of an epoch on a terminal: aligned, and never wider than it."""

from __future__ import annotations

import pytest

from abatis.report.epoch_lines import write_epoch

ROW = {
    "epoch": 3,
    "step": 30,
    "lr": 0.1,
    "loss": 1.23456,
    "ce": 1.0,
    "grad_sq": 0.00123,
    "train_clean_acc": 0.5,
    "attack/steps": 10.0,
    "val_clean_acc": 0.75,
    "val_robust_acc": 2 / 3,
    "seconds": 60.0,
}


def test_the_columns_by_hand():
    """60 s for 3 of 12 epochs leave 180 s for the other 9."""
    heading, line = write_epoch(ROW, 12, 80)
    assert heading.split() == ["epoch", "loss", "ce", "grad_sq", "clean", "robust", "lr", "left"]
    assert line.split() == [
        "3/12",
        "1.235",
        "1",
        "1.2e-03",
        "75.0",
        "%",
        "66.7",
        "%",
        "0.1",
        "3",
        "min",
        "00",
        "s",
    ]


@pytest.mark.parametrize("width", [80, 60, 200])
@pytest.mark.parametrize("terms", [0, 1, 2, 9])
def test_no_line_is_wider_than_the_terminal(width, terms):
    extreme = {f"a-term-of-many-letters-{number}": -1.23456789e-12 for number in range(terms)}
    row = {**ROW, **extreme, "epoch": 99_999, "loss": -123456.0, "lr": 1.2345e-7, "seconds": 9e9}
    heading, line = write_epoch(row, 100_000, width)
    assert len(heading) == len(line) <= width
    assert heading.split()[0] == "epoch"


def test_columns_end_where_their_headings_end():
    heading, line = write_epoch(ROW, 12, 80)
    for title, text in (("loss", "1.235"), ("grad_sq", "1.2e-03"), ("robust", "66.7 %")):
        assert heading.index(title) + len(title) == line.index(text) + len(text)


def test_without_held_out_images_there_are_no_such_columns():
    row = {key: value for key, value in ROW.items() if not key.startswith("val_")}
    assert write_epoch(row, 12, 80)[0].split() == ["epoch", "loss", "ce", "grad_sq", "lr", "left"]
