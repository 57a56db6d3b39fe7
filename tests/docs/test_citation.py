"""What the README and CITATION.cff say of the project agrees with its metadata and its records."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from abatis import run
from tests.helpers import tiny

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def read_facts():
    """The table of the README's status by its first column."""
    status = README.partition("## Status")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| ([\w ]+) \| (.+) \|$", status, re.MULTILINE))


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["authors"] == [{"name": "The Abatis authors"}]
    assert cited["authors"][0]["name"] in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_facts_of_the_readme_are_those_of_the_project():
    facts = read_facts()
    assert facts["version"].startswith(f"{PROJECT['version']}, ")
    assert facts["licence"] == PROJECT["license"]
    minor = [one.rpartition("3.")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    told = f"3.{minor[0]} tested; 3.{minor[1]} to 3.{minor[-1]} declared"
    assert facts["Python"].startswith(told)
    assert [one for one in PROJECT["classifiers"] if one.startswith("Operating")] == [
        "Operating System :: POSIX :: Linux"
    ]
    assert facts["systems"].startswith("Linux tested; ")


@pytest.mark.slow
def test_the_keys_of_the_number_for_a_paper_are_in_a_record(tmp_path):
    section = README.partition("## The number for your paper")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|[^|]+\|([^|]+)\|", section, re.MULTILINE)[2:]
    keys = re.findall(r"`(\w+(?:\.\w+)?)`", "".join(rows))
    assert {"interval.robust_acc", "n", "verdict", "attacks", "weights_sha256"} <= set(keys)
    folder = run(tiny(tmp_path, eval="quick", epochs=1, limit=60)).folder
    record = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    for key in keys:
        found = record
        for part in key.split("."):
            found = found[part]


@pytest.mark.parametrize("file", [".github/workflows/tests.yml"])
def test_a_fork_runs_what_is_run_here(file):
    jobs = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["jobs"]
    assert {"run": ".ci/run"} in jobs["everything"]["steps"]
    declared = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    assert jobs["quick"]["strategy"]["matrix"]["python"] == declared
