"""Several real processes: every method makes the update of one process on the whole batch."""

from __future__ import annotations

import pytest
import torch

from abatis.system import distributed
from tests.several import METHODS_OF, launch, train_all


@pytest.fixture(scope="module")
def alone():
    return train_all(1, "none")


@pytest.mark.parametrize(
    ("count", "accumulate", "shards"),
    [
        (2, 1, ["none", "root", "blocks"]),
        pytest.param(3, 2, ["none", "root", "blocks"], marks=pytest.mark.slow),
    ],
)
def test_twenty_steps_of_every_method_are_those_of_one_process(
    count, accumulate, shards, alone, tmp_path
):
    launch(count, "tests.several", tmp_path / "found.pt", accumulate, *shards)
    found = torch.load(tmp_path / "found.pt")
    assert found.keys() == {(shard, method) for shard in shards for method in METHODS_OF[shard]}
    for (shard, method), weights in found.items():
        expected = alone["none", method]
        assert torch.allclose(weights, expected, rtol=0, atol=1e-10), (
            shard,
            method,
            (weights - expected).abs().max(),
        )


def test_with_one_process_nothing_is_exchanged():
    values = torch.rand(3, 2)
    assert distributed.rows_of(7) == slice(0, 7)
    assert distributed.gather(values, 3) is values
    assert distributed.sum_over_processes([values])[0] is values
    assert distributed.all_agree(values > 0.5).equal(values > 0.5)
    assert distributed.any_says(True)
    assert not distributed.any_says(False)
