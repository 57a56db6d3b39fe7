"""The contract names the fault of every plugin in the zoo, and prints the reasons of exemptions."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from abatis.errors import UsageError
from abatis.testing import STANDARD, PluginContract
from abatis.testing.contract.lockstep import Lockstep

ROOT = Path(__file__).resolve().parents[2]
ZOO = sorted(path.stem for path in (ROOT / "tests" / "testing" / "zoo").glob("[a-z]*.py"))
pytest_plugins = "pytester"


@pytest.mark.parametrize("name", ZOO)
def test_the_fault_is_named(name, install, monkeypatch):
    broken = import_module(f"tests.testing.zoo.{name}")
    monkeypatch.setattr(broken, "__name__", "broken")
    install(broken)

    class TestBroken(PluginContract):
        plugin = "broken"

    with pytest.raises(Exception) as caught:
        getattr(TestBroken(), broken.FAILS)()
    assert broken.WORDS in str(caught.value)


def test_a_plugin_that_is_not_installed_is_not_found():
    class TestAbsent(PluginContract):
        plugin = "absent"

    with pytest.raises(UsageError, match="unknown plugin 'absent'"):
        TestAbsent().test_is_found_and_loads()


@pytest.mark.parametrize("value", [None, lambda self: None])
def test_replacing_or_deleting_a_standard_test_needs_a_reason(value):
    name = "test_the_same_seed_gives_the_same_total"
    with pytest.raises(
        UsageError, match=f"replaces or deletes the standard test {name} without a reason"
    ):
        type("TestMine", (PluginContract,), {"plugin": "emr", name: value})
    with pytest.raises(UsageError, match="gives no reason"):
        type("TestMine", (PluginContract,), {"plugin": "emr", name: value, "exempt": {name: " "}})
    type(
        "TestMine",
        (PluginContract,),
        {"plugin": "emr", name: value, "exempt": {name: "it draws from a device"}},
    )


def test_an_exemption_names_a_standard_test():
    with pytest.raises(UsageError, match=r"exempt names 'test_the_same_sed.*did you mean"):
        type(
            "TestMine",
            (PluginContract,),
            {"exempt": {"test_the_same_sed_gives_the_same_total": "why"}},
        )


def test_pytest_prints_the_reasons(pytester):
    pytester.makepyfile("""
        from abatis.testing import PluginContract

        class TestMine(PluginContract):
            plugin = "emr"
            exempt = {
                "test_is_found_and_loads": "it is found elsewhere",
                "test_options_survive_json": "written by hand",
            }

            def test_options_survive_json(self):
                pass
    """)
    done = pytester.runpytest_inprocess(
        "-p", "no:abatis", "-p", "abatis.testing.pytest_plugin", "-k", "found_and or json"
    )
    done.assert_outcomes(passed=1, skipped=1)
    done.stdout.fnmatch_lines(
        [
            "*exempt from the plugin contract*",
            "TestMine.test_is_found_and_loads left out: it is found*",
            "TestMine.test_options_survive_json replaced: written by hand",
        ]
    )


def test_pytest_refuses_to_collect_a_replacement_without_a_reason(pytester):
    pytester.makepyfile("""
        from abatis.testing import PluginContract

        class TestMine(PluginContract):
            plugin = "emr"
            test_options_survive_json = None
    """)
    done = pytester.runpytest_inprocess("-p", "no:abatis", "-p", "abatis.testing.pytest_plugin")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(
        ["*replaces or deletes the standard test test_options_survive_json without a reason*"]
    )


def test_every_exchange_of_processes_played_in_one_has_the_values_of_all():
    from abatis.system import distributed

    play = Lockstep(3)

    def work():
        (whole,) = distributed.sum_over_processes([play_rank(play)])
        first = distributed.gather(whole + play_rank(play), 3)
        return first.tolist(), distributed.rank(), distributed.rows_of(7)

    assert play.play(work) == [
        ([3, 4, 5], 0, slice(0, 2)),
        ([3, 4, 5], 1, slice(2, 4)),
        ([3, 4, 5], 2, slice(4, 7)),
    ]


def play_rank(play):
    import torch

    return torch.tensor([play.rank])


def test_the_page_describes_every_standard_test():
    page = (ROOT / "docs" / "testing-a-plugin.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(test_\w+)` \|", page, re.MULTILINE) == list(STANDARD)
