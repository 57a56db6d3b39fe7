"""Two processes at one sweep: the second is refused before it reads the study of the first."""

from __future__ import annotations

import pytest

from abatis import UsageError
from abatis.commands.sweep import search
from abatis.commands.sweep.options import parse
from abatis.system.folder_lock import lock_folder


def test_the_study_is_read_by_its_only_writer(tmp_path, monkeypatch):
    """A study read before the other process ends would be written over what that one found."""
    pytest.importorskip("optuna")
    words = "--data digits --backbone cnn --threat Linf:0.1 --space optim.lr=log:0.01:0.1"
    asked = parse([*words.split(), "--out", str(tmp_path)], "defense sweep")
    monkeypatch.setattr(search, "open_study", lambda *_: pytest.fail("read without the lock"))
    with lock_folder(tmp_path), pytest.raises(UsageError, match="is writing"):
        search.sweep(asked)
