"""The suite passes beside plugins of other distributions, since no test walks what is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from abatis.config import discovery
from tests.helpers import forget_installed, our_plugins, write_distribution

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "conftest.py": "looks up ours",
    "tests/commands/test_registry.py": "looks up ours",
    "tests/faults/test_checkpoints.py": "changes the version of one plugin",
}
"""Files that ask which plugins are installed, and why they may."""
WALK = re.compile(r'\blist_installed\(\)|entry_points\(group="abatis.plugins"')


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Another distribution's plugin, whose import fails."""
    write_distribution(tmp_path, "zz-stranger", "[abatis.plugins]\nzz-stranger = no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_installed()
    yield "zz-stranger"
    forget_installed()


def test_tests_see_our_plugins_alone(stranger, install):
    assert stranger in discovery.list_installed()
    assert set(our_plugins()) == set(discovery.list_installed()) - {stranger}
    install()
    assert list(discovery.list_installed()) == our_plugins()


def test_no_test_walks_the_installed_plugins():
    """They are parametrised by ``our_plugins`` instead."""
    folders = ("tests", "plugins", "benchmarks", "examples")
    files = [
        ROOT / "conftest.py",
        *(path for name in folders for path in (ROOT / name).rglob("*.py")),
    ]
    found = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path != Path(__file__) and WALK.search(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED.keys()
