"""The names that ``abatis`` and ``abatis.testing`` export, and what importing them loads."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import abatis
import abatis.testing

PACKAGES = {"abatis": abatis, "abatis.testing": abatis.testing}
OWN = {"abatis": {"__version__"}, "abatis.testing": set()}
"""Names that are defined in the package itself."""


def type_imports(package):
    """Return the module below ``abatis`` of every name imported for type checkers."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    )
    return {
        name.name: str(found.module).removeprefix("abatis.")
        for found in block.body
        for name in found.names
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_every_list_of_the_names_agrees(name):
    """Names are listed three times: for ``*``, for lookup and for type checkers."""
    package = PACKAGES[name]
    home = {name: module for module, names in package._HOME.items() for name in names}
    assert len(package.__all__) == len(set(package.__all__))
    assert set(package.__all__) == home.keys()
    assert type_imports(package) == home


@pytest.mark.parametrize("name", PACKAGES)
def test_tab_completion_finds_every_name_and_each_resolves(name):
    package = importlib.import_module(name)
    assert set(dir(package)) == {*package.__all__, *OWN[name]}
    for public in dir(package):
        assert getattr(package, public) is not None


def test_tab_completion_finds_what_a_notebook_begins_with():
    assert {"run", "load", "RunConfig", "Threat", "hookimpl"} <= set(dir(abatis))


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(AttributeError, match="module 'abatis' has no attribute 'rnu'"):
        _ = abatis.rnu


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import abatis; dir(abatis)", {"torch", "pydantic", "timm", "numpy"}),
        ("import abatis.testing; dir(abatis.testing)", {"torch", "pydantic", "timm", "numpy"}),
        ("import abatis.testing.pytest_plugin", {"torch", "pydantic", "timm"}),
        ("from abatis import PluginConfig, StepContext, Term, hookimpl", {"torch", "timm"}),
    ],
)
def test_importing_the_contract_loads_nothing_heavy(statement, unwanted):
    code = f"import sys; {statement}; print(*{{*sys.modules}} & {unwanted!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
