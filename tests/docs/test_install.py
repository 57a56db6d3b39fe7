"""What ``make wheels`` builds is installed outside the checkout, as the README says, and runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from abatis.cli import main
from abatis.config import discovery
from tests.helpers import our_plugins
from tests.outside import make_environment

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ONE_LINE = "make wheels && pip install dist/*.whl 'abatis[all]'"
TINY = "--data digits --backbone cnn --threat Linf:0.1 --epochs 1 --limit 60 --eval none"
FIX = re.compile(r"fix: +in a checkout of abatis: make wheels && (?P<command>pip install .+)")


def test_an_extra_holds_every_plugin_and_another_every_extra():
    extras = PROJECT["optional-dependencies"]
    ours = sorted(
        tomllib.loads(file.read_text(encoding="utf-8"))["project"]["name"]
        for file in ROOT.glob("plugins/*/pyproject.toml")
    )
    assert extras["methods"] == [f"{name}~=0.1" for name in ours]
    (everything,) = extras["all"]
    assert sorted(re.split(r"[\[\],]", everything)[1:-1]) == sorted(extras.keys() - {"all"})


def test_the_one_line_is_the_same_everywhere():
    for page in ("README.md", "docs/quickstart.md"):
        assert ONE_LINE in (ROOT / page).read_text(encoding="utf-8"), page


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("run --plugin emr", None),
        ("run --recipe emr/released-at", "the recipe 'emr/released-at' is part of it"),
        ("run --emr.weight 3", "option --emr.weight belongs to it"),
        ("compare --methods at emr", None),
    ],
)
def test_a_plugin_that_is_known_but_not_installed(words, why, monkeypatch, capsys):
    there = {name: one for name, one in discovery.list_installed().items() if name != "emr"}
    monkeypatch.setattr(discovery, "list_installed", lambda: there)
    discovery._load_installed.cache_clear()
    assert main(words.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: plugin 'emr' is known, but not installed\n")
    assert why is None or f"where: {why}\n" in told
    found = FIX.search(told)
    assert found
    assert found["command"] == "pip install --no-index --find-links dist abatis-emr"
    assert main(["registry", "show", "emr", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to_install"].endswith(found["command"])


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "dist"
    subprocess.run(
        ["make", "wheels", f"BUILDER={sys.executable}", f"DIST={folder}"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def outside(dist, tmp_path_factory):
    """An environment in which the core alone is installed."""
    programs, call = make_environment(tmp_path_factory.mktemp("outside"))
    pip = [str(programs / "python"), "-m", "pip"]
    call(*pip, "install", "--find-links", str(dist), "abatis")
    return programs, pip, call


@pytest.mark.slow
def test_the_core_alone_says_how_to_get_a_plugin_and_so_it_runs(dist, outside):
    programs, pip, call = outside
    run = [str(programs / "defense-run"), "--plugin", "emr", *TINY.split()]
    told = FIX.search(call(*run, code=2))
    assert told
    call(*pip, *told["command"].split()[1:], cwd=dist.parent)
    assert "emr" in call(*run)
    call(
        str(programs / "defense-run"),
        "--recipe",
        "emr/released-at",
        "--backbone=resnet8",
        "--dry-run",
    )


@pytest.mark.slow
def test_everything_is_installed_by_one_line(dist, outside):
    programs, pip, call = outside
    line = ONE_LINE.partition("pip ")[2].replace("abatis[all]", "abatis[methods]")
    words = line.replace("'", "").split()
    wheels = sorted(map(str, dist.glob("*.whl")))
    call(*pip, *(part for word in words for part in (wheels if "*" in word else [word])))
    defense = str(programs / "defense")
    assert "no problems found" in call(defense, "registry", "check")
    rows = json.loads(call(defense, "registry", "list", "--json"))
    assert [row["name"] for row in rows if row["installed"]] == our_plugins()
