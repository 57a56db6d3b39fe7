"""The registry describes what is installed, and is found from anywhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import get_args

import pytest
import tomli_w
from pydantic import ValidationError

from abatis.api import hooks
from abatis.cli import main
from abatis.commands.registry import add as adding
from abatis.commands.registry import check as checking
from abatis.commands.registry import entries
from abatis.commands.registry.actions import make_schema
from abatis.commands.registry.entries import (
    Evidence,
    Method,
    Role,
    format_option,
    parse_registry,
    read_registry,
    registry_file,
)
from abatis.config import discovery
from abatis.config.command_line import parse_run
from tests.faults import ended, start_child

ROOT = Path(__file__).resolve().parents[2]
FIRST_PARTY = sorted(
    path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists()
)
HOOKS = [
    name.removeprefix("defense_")
    for name in vars(hooks)
    if name.startswith("defense_") and name != "defense_config"
]

ATTACKERS = ["fast", "grad-norm", "he", "ikl", "lbgat", "multi-norm", "score", "trades"]


def test_every_plugin_of_this_repository_is_registered_and_installed():
    ours = [name for name, method in read_registry().items() if not method.community]
    assert sorted(ours) == FIRST_PARTY
    assert set(FIRST_PARTY) <= set(discovery.list_installed())


def test_every_hook_is_a_role():
    assert list(get_args(Role)) == HOOKS


def test_the_registry_agrees_with_plugins_folders_and_records(capsys):
    assert main(["registry", "check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_the_command_line_takes_the_options_of_an_entry(name):
    words = [
        word
        for option, value in read_registry()[name].options.items()
        for word in format_option(name, option, value).split()
    ]
    options = parse_run(["--plugin", name, *words]).options[name]
    assert options == discovery.load_plugin(name).config_class()


BROKEN = {
    "hooks": (["trainer"], "hooks are trainer, but the module has loss"),
    "options": ({"beta": "5.0", "gamma": "1"}, "option beta is 5.0, but the plugin has 6.0"),
    "distribution": ("abatis-other", "distribution is abatis-other, but abatis-mart is installed"),
    "tested_with": (["nobody", "trades"], "tested_with names 'nobody'"),
    "claim_from": (None, "claim_from is missing"),
    "evidence": ("It works.", "evidence is a text; name its form and source"),
}
RECORD = "benchmarks/results/compare-digits.json"
BAD_EVIDENCE = {
    "another row": ({"rows": ["emr", "nothing"]}, f"{RECORD}: has no row 'nothing'"),
    "another form": (
        {"form": "clean training"},
        f"{RECORD}: row 'mart' is of adversarial training, not of clean training",
    ),
    "another verdict": (
        {"masking_verdict": "WARN"},
        f"{RECORD}: masking_verdict is WARN, but these rows have PASS",
    ),
    "no verdict": (
        {"masking_verdict": None, "ladder": None},
        f"{RECORD}: masking_verdict is absent, but these rows have PASS",
    ),
    "another ladder": (
        {"ladder": "standard"},
        f"{RECORD}: ladder is standard, but the record has quick",
    ),
    "a verdict that is not recorded": (
        {"source": "benchmarks/results/methods-digits.json"},
        "methods-digits.json: masking_verdict is PASS, but these rows have none",
    ),
    "no record": ({"source": "benchmarks/results/no.json"}, "no.json: cannot be read: FileNot"),
    "another folder": ({"source": "registry.toml"}, "registry.toml: is no record in benchmarks"),
    "another kind of record": (
        {"source": "benchmarks/results/startup.json"},
        "startup.json: cannot be read",
    ),
}
BAD_TESTS = {
    "plugins/mart/tests/test_loss.py::test_nothing": "has no test 'test_nothing'",
    "plugins/mart/tests/test_loss.py": "names no test: write FILE.py::TEST",
    "plugins/mart/tests/test_no.py::test_by_hand": "cannot be read: FileNotFoundError",
}


@pytest.fixture
def check_changed(tmp_path, monkeypatch, capsys):
    """What ``registry check`` prints where fields of mart's entry are changed."""

    def check(**changes):
        tables = {
            name: method.model_dump(mode="json", exclude_none=True)
            for name, method in read_registry().items()
        }
        tables["mart"] |= changes
        kept = {key: value for key, value in tables["mart"].items() if value is not None}
        text = tomli_w.dumps({"method": [*({**tables, "mart": kept}).values()]})
        (tmp_path / "registry.toml").write_text(text)
        for name in ("plugins", "docs", "benchmarks", "tests"):
            (tmp_path / name).symlink_to(ROOT / name)
        for module in (entries, checking):
            monkeypatch.setattr(module, "registry_file", lambda: tmp_path / "registry.toml")
        assert main(["registry", "check"]) == 1
        return capsys.readouterr().out

    return check


@pytest.mark.parametrize("field", BROKEN)
def test_check_names_what_disagrees(field, check_changed):
    value, complaint = BROKEN[field]
    assert f"mart: {complaint}" in check_changed(**{field: value})


@pytest.mark.parametrize("change", BAD_EVIDENCE)
def test_check_holds_evidence_against_its_record(change, check_changed):
    changes, complaint = BAD_EVIDENCE[change]
    evidence = {
        "shows": "x",
        "form": "adversarial training",
        "source": RECORD,
        "rows": ["mart"],
        "masking_verdict": "PASS",
        "ladder": "quick",
        **changes,
    }
    found = check_changed(evidence=[{k: v for k, v in evidence.items() if v is not None}])
    assert "mart: evidence" in found
    assert complaint in found


@pytest.mark.parametrize("source", BAD_TESTS)
def test_check_holds_evidence_against_the_tests(source, check_changed):
    found = check_changed(evidence=[{"shows": "x", "form": "test", "source": source}])
    assert f"mart: evidence {source}: {BAD_TESTS[source]}" in found


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"form": "hearsay"}, "'test', 'clean training' or 'adversarial training'"),
        ({"rows": []}, "a training names the rows of its record"),
        ({"form": "test"}, "a test names none"),
        ({"ladder": "quick"}, "masking_verdict and ladder go together"),
    ],
)
def test_evidence_of_no_form_is_refused(changes, complaint):
    evidence = {"shows": "x", "form": "clean training", "source": "y", "rows": ["z"], **changes}
    with pytest.raises(ValidationError, match=complaint):
        Evidence.model_validate(evidence)


def test_the_schema_for_editors_is_up_to_date():
    """``defense registry schema > registry.schema.json`` makes it."""
    assert (ROOT / "registry.schema.json").read_text() == make_schema()
    assert (ROOT / "registry.toml").read_text().startswith("#:schema ./registry.schema.json\n")


def test_evidence_with_the_verdict_fail_is_refused_unless_told_otherwise():
    entry = read_registry()["emr"].model_dump()
    evidence = {
        "shows": "x",
        "form": "adversarial training",
        "source": RECORD,
        "rows": ["emr"],
        "ladder": "quick",
    }

    def judged(verdict, **more):
        shown = [{**evidence, "masking_verdict": verdict}]
        return Method.model_validate({**entry, "evidence": shown, **more})

    assert judged("WARN").evidence[0].masking_verdict == "WARN"
    with pytest.raises(ValidationError, match="masking verdict FAIL"):
        judged("FAIL")
    assert judged("FAIL", allow_fail=True).allow_fail


def test_list_and_show(capsys):
    assert main(["registry", "list"]) == 0
    assert "Effective margin" in capsys.readouterr().out
    assert main(["registry", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["emr"]["installed"] == discovery.list_installed()["emr"].version
    assert main(["registry", "list", "--json", "--installed", "--hook", "attacker"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ATTACKERS
    assert main(["registry", "show", "mart"]) == 0
    shown = capsys.readouterr().out
    assert "ICLR 2020" in shown
    assert "--mart.beta 6.0" in shown
    assert "BCE_i" in shown
    assert "masking verdict PASS (quick ladder)" in " ".join(shown.split())
    assert "first-party" in shown
    assert main(["registry", "show", "marr"]) == 2
    assert "did you mean 'mart'" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A stranger's plugin that is not installed."""
    package = tmp_path / "stranger" / "src" / "abatis_stranger"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(MODULE)
    (tmp_path / "stranger" / "pyproject.toml").write_text(PROJECT)
    monkeypatch.delitem(sys.modules, "abatis_stranger", raising=False)
    return tmp_path / "stranger"


PROJECT = """
[project]
name = "abatis-stranger"
[project.urls]
Repository = "https://example.org/stranger"
[project.entry-points."abatis.plugins"]
stranger = "abatis_stranger"
[tool.abatis]
title = "Logit squeezing"
paper = "none"
equation = "weight ||z'_i||^2"
claim = "none"
"""
MODULE = """
from abatis import PluginConfig, hookimpl
from pydantic import Field

class Options(PluginConfig):
    weight: float = Field(0.01, ge=0, description="weight")
    at: tuple[int, ...] = Field((1, 2), description="epochs")

@hookimpl
def defense_config():
    return Options

@hookimpl
def defense_regularizer(run):
    raise AssertionError("never called here")
"""


def test_a_strangers_plugin_is_entered_and_marked(folder, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "registry.toml"
    copy.write_bytes(registry_file().read_bytes())
    (tmp_path / "pyproject.toml").touch()
    for module in (entries, adding):
        monkeypatch.setattr(module, "registry_file", lambda: copy)
    assert main(["registry", "add", str(folder)]) == 0
    entry = parse_registry(capsys.readouterr().out, "printed")["stranger"]
    assert entry.community
    assert entry.homepage == "https://example.org/stranger"
    assert (entry.hooks, entry.options) == (("regularizer",), {"weight": "0.01", "at": "1,2"})
    assert "stranger" not in read_registry()
    assert main(["registry", "add", str(folder), "--write"]) == 0
    assert read_registry()["stranger"] == entry
    assert main(["registry", "add", str(folder), "--write"]) == 2
    assert "stranger is listed 2 times" in capsys.readouterr().err
    assert main(["registry", "list"]) == 0
    assert "community" in capsys.readouterr().out
    assert main(["registry", "show", "stranger"]) == 0
    assert "not reviewed by us" in capsys.readouterr().out


def test_two_entries_that_are_written_at_once_are_both_kept(folder, tmp_path, monkeypatch):
    copy = tmp_path / "registry.toml"
    copy.write_bytes(registry_file().read_bytes())
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(adding, "registry_file", lambda: copy)
    other = shutil.copytree(folder, tmp_path / "other")
    project = (other / "pyproject.toml").read_text()
    (other / "pyproject.toml").write_text(project.replace("stranger = ", "second = "))

    def check_slowly(text, where):
        found = parse_registry(text, where)
        time.sleep(0.5)  # the other process has read the file by now
        return found

    monkeypatch.setattr(adding, "parse_registry", check_slowly)
    children = [start_child(lambda one=one: adding.add(one, write=True)) for one in (folder, other)]
    assert [ended(child) for child in children] == [0, 0]
    assert {"stranger", "second"} <= parse_registry(copy.read_text(), "written").keys()


EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/third-party/*/pyproject.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_card_of_an_example_is_the_entry_that_is_made_of_it(example):
    (card,) = re.findall(
        r"```toml\n(.*?)```", (example / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert adding.add(example) == card


def test_an_entry_is_made_without_torch(folder):
    words = ["registry", "add", str(folder)]
    code = (
        f"import sys; from abatis.cli import main; main({words}); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'name = "stranger"' in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[project.entry-points", "[project.other", "no entry point in the group abatis.plugins"),
        ("claim = ", "clam = ", "lacks claim"),
        ("equation = ", "equation = 1 #", "equation must be text, not 1"),
        ('"abatis_stranger"', '"abatis_nothing"', "cannot be imported"),
    ],
)
def test_a_folder_that_says_too_little_is_refused(folder, capsys, old, new, complaint):
    (folder / "pyproject.toml").write_text(PROJECT.replace(old, new))
    assert main(["registry", "add", str(folder)]) in (1, 2)
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) <= 4


def test_the_registry_is_found_from_another_folder(tmp_path):
    code = "from abatis.commands.registry.entries import read_registry as read; print([*read()])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "emr" in done.stdout


def test_a_wheel_holds_the_registry(tmp_path):
    code = f"import hatchling.build as b; print(b.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wheel = tmp_path / done.stdout.split()[-1]
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("abatis/registry.toml") == (ROOT / "registry.toml").read_bytes()
        archive.extractall(tmp_path / "unpacked")
    code = "from abatis.commands.registry.entries import registry_file; print(registry_file())"
    found = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            f"import sys; sys.path[:0] = {[str(tmp_path / 'unpacked'), *sys.path]!r}\n{code}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(tmp_path / "unpacked" / "abatis" / "registry.toml")
