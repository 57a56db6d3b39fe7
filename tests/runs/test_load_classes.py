"""``abatis.load`` with the number of classes that is needed."""

from __future__ import annotations

import pytest

from abatis import UsageError, load, run
from tests.helpers import tiny


def test_a_run_of_another_number_of_classes_is_refused(tmp_path):
    """A teacher that is loaded so would fail, or guide wrongly, in the first step."""
    folder = run(tiny(tmp_path, name="run", epochs=1)).folder
    load(folder, num_classes=10)
    with pytest.raises(UsageError, match="has 10 outputs, and 100 are needed"):
        load(folder, num_classes=100)
