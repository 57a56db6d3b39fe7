"""The run that nothing happened to."""

from __future__ import annotations

import pytest

from tests.faults import in_child, train
from tests.helpers import final_bytes


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The final weights of the uninterrupted run, as bytes."""
    out = tmp_path_factory.mktemp("whole")
    assert in_child(lambda: train(out)) == 0
    return final_bytes(out / "r")
