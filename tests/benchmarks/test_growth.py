"""What a step of every method computes, in forward passes, for any number of classes."""

from __future__ import annotations

import pytest
from benchmarks.growth_methods import METHODS, Point, expected_flop, forward_flop, variant_of
from benchmarks.side_by_side import flop

from tests.helpers import our_plugins

# in forward passes: an update needs no gradient of the first layer to the images, a penalty does
STEM = 0.25


def test_every_method_has_its_count():
    assert METHODS.keys() == {"at", *our_plugins()}


@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_computes_what_its_formula_says(name, classes):
    at = Point(batch=8, steps=2, classes=classes, size=8)
    computed = flop(variant_of(METHODS[name], at).call)
    assert computed / forward_flop(at) == pytest.approx(
        expected_flop(METHODS[name], at) / forward_flop(at), abs=STEM
    )
