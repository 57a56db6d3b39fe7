"""What a step of every method computes, counted in forward passes: the formula, whatever the number of classes."""

from __future__ import annotations

import pytest
from benchmarks.growth_methods import METHODS, Point, expected_flop, forward_flop, variant_of
from benchmarks.side_by_side import flop

from abatis.config import discovery

STEM = 0.25  # forwards: the first layer needs no gradient to the images in an update, and gets one behind a penalty


def test_every_method_has_its_count():
    assert METHODS.keys() == {"at", *discovery.installed()}


@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_computes_what_its_formula_says(name, classes):
    at = Point(batch=8, steps=2, classes=classes, size=8)
    computed = flop(variant_of(METHODS[name], at).call)
    assert computed / forward_flop(at) == pytest.approx(
        expected_flop(METHODS[name], at) / forward_flop(at), abs=STEM
    )
