"""A file that is changed in place loses nothing, whoever else changes it and whatever happens."""

from __future__ import annotations

import os
import signal

import pytest

from abatis.errors import UsageError
from abatis.system import files
from abatis.system.change_file import change_text
from abatis.system.folder_lock import lock_file
from tests.faults import ended, start_child

CHILDREN, EACH = 4, 5


def test_nothing_is_lost_where_several_change_a_file_at_once(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("")
    start, go = os.pipe()

    def work(child):
        os.read(start, 1)
        for number in range(EACH):
            change_text(file, lambda text, line=f"{child}.{number}\n": text + line)

    children = [start_child(lambda child=child: work(child)) for child in range(CHILDREN)]
    os.write(go, b"!" * CHILDREN)
    assert [ended(child) for child in children] == [0] * CHILDREN
    wanted = sorted(f"{child}.{number}" for child in range(CHILDREN) for number in range(EACH))
    assert sorted(file.read_text().split()) == wanted
    assert os.listdir(tmp_path) == ["list.txt"]


def test_a_kill_leaves_the_old_file_and_no_lock_that_holds(tmp_path, monkeypatch):
    file = tmp_path / "list.txt"
    file.write_text("old\n")

    def work():
        files.flush = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # before it is in place
        change_text(file, lambda text: text + "new\n")

    assert ended(start_child(work)) == -signal.SIGKILL
    assert file.read_text() == "old\n"
    assert change_text(file, lambda text: text + "new\n") == "old\nnew\n"
    assert os.listdir(tmp_path) == ["list.txt"]


def test_a_change_that_fails_leaves_the_file(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("old")

    def fail(text):
        raise ValueError(text)

    with pytest.raises(ValueError, match="old"):
        change_text(file, fail)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["list.txt"]


def test_a_file_that_is_no_text_is_left_as_it_is(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot read"):
        change_text(tmp_path / "list.txt", str.upper)
    assert (tmp_path / "list.txt").read_bytes() == b"\xff\xfe"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("a")
    (tmp_path / "link").symlink_to("real")
    change_text(tmp_path / "link", str.upper)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "A"


def test_a_file_that_another_process_does_not_release(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("")
    ready, go = os.pipe()

    def work():
        with lock_file(file):
            os.write(go, b"!")
            signal.pause()

    child = start_child(work)
    assert os.read(ready, 1) == b"!"
    try:
        said = f"process {child} on .* is writing this file"
        with pytest.raises(UsageError, match=said), lock_file(file, patience=0.1):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
