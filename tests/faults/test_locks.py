"""F19: one writer a run folder."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from abatis.errors import UsageError
from abatis.system.folder_lock import LOCK, lock_folder
from tests.faults import before_step, ended, start_child, train
from tests.helpers import final_bytes


def test_f19_a_second_run_is_told_whose_the_folder_is_and_a_dead_owner_loses_it(tmp_path, whole):
    ready, go = os.pipe()

    def work():
        before_step(5, lambda: (os.write(go, b"!"), signal.pause()))
        train(tmp_path)

    owner = start_child(work)
    assert os.read(ready, 1) == b"!"
    try:
        for changes in ({}, {"resume": True}):
            with pytest.raises(UsageError) as caught:
                train(tmp_path, **changes)
            assert caught.value.exit_code == 2
            assert f"process {owner} on {socket.gethostname()} is writing" in str(caught.value)
    finally:
        os.kill(owner, signal.SIGKILL)
    assert ended(owner) == -signal.SIGKILL
    assert (tmp_path / "r" / LOCK).exists()
    assert final_bytes(train(tmp_path, resume=True)) == whole
    assert not (tmp_path / "r" / LOCK).exists()


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[]", b'{"pid": 1}'])
def test_f19_what_a_lock_file_holds_does_not_matter(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with lock_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_f19_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot write"), lock_folder(tmp_path):
        pass
    assert (tmp_path / "file").read_text() == "mine"
