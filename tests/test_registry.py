"""The registry describes what is installed, and is found from anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from abatis import plugins
from abatis.cli import main
from abatis.command_line import parse_run
from abatis.registry import Method, _flag, methods

ROOT = Path(__file__).resolve().parents[1]
FIRST_PARTY = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists())
ROLES = ("attacker", "loss", "regularizer", "trainer")


def test_every_plugin_of_this_repository_is_registered_and_installed():
    assert sorted(methods()) == FIRST_PARTY
    assert set(FIRST_PARTY) <= set(plugins.installed())


@pytest.mark.parametrize("name", FIRST_PARTY)
def test_an_entry_agrees_with_the_plugin(name):
    method, plugin = methods()[name], plugins.load(name)
    assert method.distribution == plugins.installed()[name].distribution
    assert set(method.hooks) == {role for role in ROLES if hasattr(plugin.module, f"defense_{role}")}
    words = [word for option, value in method.options.items() for word in _flag(f"--{name}.{option}", value).split()]
    assert parse_run(["--plugin", name, *words]).options[name] == plugin.config_class()
    assert len(method.options) == len(plugin.config_class.model_fields)
    assert (ROOT / "docs" / "methods" / f"{name}.md").is_file()


def test_evidence_with_the_verdict_fail_is_refused_unless_told_otherwise():
    entry = methods()["emr"].model_dump()
    assert Method.model_validate({**entry, "verdict": "WARN"}).verdict == "WARN"
    with pytest.raises(ValidationError, match="masking verdict FAIL"):
        Method.model_validate({**entry, "verdict": "FAIL"})
    assert Method.model_validate({**entry, "verdict": "FAIL", "allow_fail": True}).verdict == "FAIL"


def test_list_and_show(capsys):
    assert main(["registry", "list"]) == 0
    assert "Effective margin" in capsys.readouterr().out
    assert main(["registry", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["emr"]["installed"] == plugins.installed()["emr"].version
    assert main(["registry", "show", "mart"]) == 0
    shown = capsys.readouterr().out
    assert "ICLR 2020" in shown
    assert "--mart.beta 6.0" in shown
    assert main(["registry", "show", "marr"]) == 2
    assert "did you mean 'mart'" in capsys.readouterr().err


def test_the_registry_is_found_from_another_folder(tmp_path):
    code = "from abatis.registry import methods; print(sorted(methods()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "emr" in done.stdout


def test_a_wheel_holds_the_registry(tmp_path):
    code = f"import hatchling.build as b; print(b.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    wheel = tmp_path / done.stdout.split()[-1]
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("abatis/registry.toml") == (ROOT / "registry.toml").read_bytes()
        archive.extractall(tmp_path / "unpacked")
    code = "from abatis.registry import registry_file; print(registry_file())"
    found = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(tmp_path / 'unpacked'), *sys.path]!r}\n{code}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(tmp_path / "unpacked" / "abatis" / "registry.toml")
