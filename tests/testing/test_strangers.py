"""The suite passes beside plugins of other distributions, since no test walks what is installed."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from abatis.config import discovery
from abatis.errors import PluginError, UsageError
from tests.helpers import forget_installed, our_plugins, write_distribution

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "conftest.py": "looks up ours",
    "tests/commands/test_registry.py": "looks up ours",
    "tests/docs/test_install.py": "hides one of ours",
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


@pytest.mark.parametrize(
    ("name", "why"), [("pgd", "something built in"), ("at", "something built in"), ("lr", "")]
)
def test_an_installed_plugin_cannot_take_the_name_of_a_part(name, why, monkeypatch):
    point = EntryPoint(name, "no_such_module", "abatis.plugins")
    mine = {name: discovery.Installed(name, "zz-stranger", "1.0", "", point)}
    monkeypatch.setattr(discovery, "list_installed", lambda: mine)
    with pytest.raises(PluginError, match=why or "core option") as error:
        discovery.load_plugin(name, reserved={"lr"})
    assert error.value.where == "zz-stranger"


def test_two_distributions_with_a_plugin_of_one_name_stop_only_its_runs(tmp_path, monkeypatch):
    for distribution in ("zz-one", "zz-two"):
        write_distribution(tmp_path, distribution, "[abatis.plugins]\nzz-idea = no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_installed()
    try:
        assert discovery.load_plugin("emr").name == "emr"
        with pytest.raises(UsageError, match="two distributions provide a plugin named 'zz-idea'"):
            discovery.load_plugin("zz-idea")
    finally:
        forget_installed()


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
