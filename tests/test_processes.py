"""Several real processes: every method makes the update that one process makes of the whole batch."""

from __future__ import annotations

import pytest
import torch

from abatis import processes
from tests.several import METHODS, everything, launch


@pytest.fixture(scope="module")
def alone():
    return everything(1)


@pytest.mark.parametrize(("count", "accumulate"), [(2, 1), (3, 2)])
def test_twenty_steps_of_every_method_are_those_of_one_process(count, accumulate, alone, tmp_path):
    launch(count, "tests.several", tmp_path / "found.pt", accumulate)
    found = torch.load(tmp_path / "found.pt")
    assert found.keys() == set(METHODS)
    for method, weights in found.items():
        assert torch.allclose(weights, alone[method], rtol=0, atol=1e-10), (method, (weights - alone[method]).abs().max())


def test_with_one_process_nothing_is_exchanged():
    values = torch.rand(3, 2)
    assert processes.rows_of(7) == slice(0, 7)
    assert processes.gathered(values, 3) is values
    assert processes.summed([values])[0] is values
    assert processes.all_agree(values > 0.5).equal(values > 0.5)
    assert processes.any_says(True)
    assert not processes.any_says(False)
