"""Entry points are read as importlib.metadata reads them."""

from __future__ import annotations

import importlib.metadata

import pytest

from abatis.system.entry_points import EntryPoint, read_entry_points
from tests.helpers import write_distribution


@pytest.mark.parametrize("group", ["abatis.commands", "abatis.plugins", "console_scripts"])
def test_the_installed_ones_are_those_of_the_library(group):
    ours = {(point.name, point.value) for point in read_entry_points(group)}
    theirs = {(point.name, point.value) for point in importlib.metadata.entry_points(group=group)}
    assert ours == theirs
    assert ours


def test_the_first_distribution_of_a_name_counts_and_odd_lines_do_not(tmp_path, monkeypatch):
    for place, value in (("first", "one:f"), ("second", "two:f")):
        (tmp_path / place).mkdir()
        write_distribution(
            tmp_path / place, "Some.Thing", f"# a comment = x\n[g]\n\nname = {value}\n[h]\nb=c:d\n"
        )
    monkeypatch.setattr("sys.path", [str(tmp_path / place) for place in ("first", "no", "second")])
    assert read_entry_points("g") == [EntryPoint("name", "one:f", "some-thing")]
    assert read_entry_points("h") == [EntryPoint("b", "c:d", "some-thing")]
    assert read_entry_points("i") == []


def test_an_entry_point_loads_what_it_names():
    assert EntryPoint("join", "os:path.join [extra]", "x").load() is __import__("os").path.join
    assert EntryPoint("os", "os", "x").load() is __import__("os")
