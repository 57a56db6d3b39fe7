"""Errors name the value of a list that is wrong, and what may be left out."""

from __future__ import annotations

import pytest

from abatis.config.command_line import parse_run
from abatis.errors import UsageError


def parse(line):
    return parse_run(line.split())


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--emr.decay-at none", "value 1 of emr.decay_at must be a number, not 'none'"),
        ("--emr.decay-at 0.5,x", "value 2 of emr.decay_at must be a number, not 'x'"),
        ("--emr.decay-at nan", "emr.decay_at must be finite numbers with commas .*, not 'nan'"),
        ("--emr.decay-at 0.5,inf", "emr.decay_at must be finite numbers .*, not '0.5,inf'"),
        ("--optim.milestones nan", "the value of --optim.milestones cannot be read"),
    ],
)
def test_what_is_no_list_of_numbers_is_named_as_it_was_written(line, text):
    with pytest.raises(UsageError, match=text):
        parse(f"--data digits --plugin emr {line}")


@pytest.mark.parametrize("line", ["--emr.decay-at none", "--subset none"])
def test_an_option_that_may_have_no_value_is_left_out(line):
    with pytest.raises(UsageError) as error:
        parse(f"--data digits --plugin emr {line}")
    assert error.value.fix == "leave it out"
    with pytest.raises(UsageError) as error:
        parse("--data digits --plugin emr --emr.decay none")
    assert error.value.fix != "leave it out"
