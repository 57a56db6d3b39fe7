"""``defense new plugin``: the templates keep the contract of plugins, and so does every copy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from abatis.cli import main
from abatis.commands.new.make_plugin import KINDS, TEMPLATES, TRY, make_plugin
from abatis.commands.registry.add import add
from abatis.config import discovery
from abatis.errors import UsageError
from tests.helpers import write_metadata
from tests.outside import make_environment

ROOT = Path(__file__).resolve().parents[2]


MINE = {
    "title": "Mine",
    "paper": "unpublished",
    "equation": "x + y",
    "claim": "It is mine.",
    "evidence": "None yet.",
}


def describe(folder):
    """Fill in the table that a template leaves to its author."""
    file = folder / "pyproject.toml"
    text = file.read_text(encoding="utf-8")
    for key, value in MINE.items():
        text, found = re.subn(rf'^{key} = "TODO: .*"$', f'{key} = "{value}"', text, flags=re.M)
        assert found == 1, key
    file.write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_the_templates_pass_their_own_tests_where_they_lie(tmp_path):
    folders = [TEMPLATES / kind for kind in KINDS]
    for folder in folders:
        write_metadata(folder, tmp_path)
    path = os.pathsep.join([str(tmp_path), *(str(folder / "src") for folder in folders), *sys.path])
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, folders)]
    done = subprocess.run(
        line,
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_no_trace_of_the_template_s_name(tmp_path, kind):
    folder = make_plugin("squeeze-it", kind, tmp_path)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        text = path.read_text()
        assert not {
            word
            for word in (f"my-{kind}", f"my_{kind}", f"My{kind.capitalize()}", f"My {kind}")
            if word in text
        }
        assert "my" not in path.relative_to(folder).as_posix()
        if path.suffix == ".py":
            compile(text, str(path), "exec")
    names = {path.relative_to(folder).as_posix() for path in files}
    package = "src/abatis_squeeze_it"
    assert {
        "pyproject.toml",
        "README.md",
        f"{package}/__init__.py",
        f"{package}/py.typed",
        "tests/test_squeeze_it.py",
        ".github/workflows/tests.yml",
    } < names
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["entry-points"]["abatis.plugins"]) == (
        "abatis-squeeze-it",
        {"squeeze-it": "abatis_squeeze_it"},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_claims_nothing_until_its_author_does(tmp_path, kind):
    folder = make_plugin(f"an-{kind}", kind, tmp_path)
    with pytest.raises(UsageError) as caught:
        add(folder)
    assert caught.value.what.endswith("template's text for title, paper, equation, claim, evidence")
    describe(folder)
    entry = tomllib.loads(add(folder))["method"][0]
    assert {key: entry[key] for key in MINE} == MINE
    assert (entry["name"], entry["distribution"]) == (f"an-{kind}", f"abatis-an-{kind}")


def test_the_command_says_what_to_do_next(tmp_path, capsys):
    assert (
        main(["new", "plugin", "squeeze_it", "--kind", "loss", "--out", str(tmp_path / "a b")]) == 0
    )
    said = capsys.readouterr().out
    assert f"python -m pip install -e '{tmp_path / 'a b' / 'squeeze-it'}' pytest" in said
    assert f"defense-run --plugin squeeze-it {TRY}" in said


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("Squeeze", "lower-case letters"),
        ("2much", "begins with a letter"),
        ("a--b", "single hyphens"),
        ("../up", "lower-case letters"),
        ("epochs", "core option"),
        ("config", "core option"),
        ("pgd", "built in"),
        ("emr", "abatis-emr is named 'emr'"),
        ("ball", "its class Ball"),
        ("there", "there exists"),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path, capsys, name, complaint):
    (tmp_path / "there").mkdir()
    assert main(["new", "plugin", name, "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert "fix:" in message
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_registered_name_is_refused_where_the_plugin_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(discovery, "list_installed", dict)
    with pytest.raises(UsageError, match="registry has a method named 'emr'"):
        make_plugin("emr", "loss", tmp_path)


def test_a_wheel_holds_the_templates(tmp_path):
    code = f"import hatchling.build as b; print(b.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        held = {
            name for name in wheel.namelist() if name.startswith("abatis/commands/new/templates/")
        }
    tracked = subprocess.run(
        ["git", "ls-files", "core/abatis/commands/new/templates"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert held == {name.removeprefix("core/") for name in tracked.stdout.split()}
    assert len(held) >= 7 * len(KINDS)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """An environment with the wheel of this checkout's core; nothing is fetched."""
    home = tmp_path_factory.mktemp("clean")
    programs, call = make_environment(home)
    pip = [str(programs / "python"), "-m", "pip"]
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", str(ROOT))
    (wheel,) = (home / "dist").glob("*.whl")
    call(*pip, "install", str(wheel))
    return home, wheel, call


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_from_nothing_to_a_tested_plugin_that_runs(clean, kind):
    """new, its own workflow unchanged, list, one step; no one has heard of the plugin."""
    home, wheel, call = clean
    name = f"an-{kind}-idea"
    call("defense", "new", "plugin", name, "--kind", kind)
    (home / name / "wheels").mkdir()  # where its workflow says to copy the wheel
    (home / name / "wheels" / wheel.name).write_bytes(wheel.read_bytes())
    workflow = yaml.safe_load((home / name / ".github" / "workflows" / "tests.yml").read_text())
    install, test = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    call("bash", "-c", f"{install} --no-build-isolation", cwd=home / name)
    assert "passed" in call("bash", "-c", test, cwd=home / name)
    rows = {row["name"]: row for row in json.loads(call("defense", "registry", "list", "--json"))}
    assert rows[name]["installed"] == "0.1.0"
    tiny = [*TRY.split(), "--limit", "40", "--eval", "none", "--name", name]
    call("defense-run", "--plugin", name, *tiny)
    plan = json.loads((home / "runs" / name / "plan.json").read_text())
    assert {row["role"] for row in plan if row["provider"] == name} == {
        kind if kind != "wrapper" else "loss wrapper"
    }
    describe(home / name)
    assert 'claim = "It is mine."' in call("defense", "registry", "add", name)
