"""The core knows no method by name, the house sizes hold, and imports keep to the layers of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = sorted((ROOT / "core" / "abatis" / "templates").glob("*/src/**/*.py"))
CORE = [path for path in sorted((ROOT / "core").rglob("*.py")) if "templates" not in path.parts]
OUTSIDE = [*sorted((ROOT / "plugins").glob("*/src/**/*.py")), *sorted((ROOT / "examples").glob("*/*/src/**/*.py"))]
SOURCES = [*CORE, *TEMPLATES, *OUTSIDE]
NAMES = ("emr", "mart", "mail", "sovr", "amm", "trades", "gairat", "awp")


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_core_knows_no_method_by_name(path):
    found = re.findall(rf"(?i)\b({'|'.join(NAMES)})\b", path.read_text(encoding="utf-8"))
    assert not found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (400 if path in CORE else 150)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 40, f"{node.name} is {node.end_lineno - node.lineno + 1} lines long"


def layers() -> dict[str, int]:
    """Module (without ``abatis.``) to the number of its row in the table of the page."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \w+ \| ((?:`[\w.]+` ?)+)\|", page, re.MULTILINE)
    named = [(name, number) for number, row in enumerate(rows) for name in re.findall(r"`([\w.]+)`", row)]
    assert len(named) == len(dict(named)), "a module is in the table twice"
    return dict(named)


LAYERS = layers()
MODULES = {
    ".".join(path.relative_to(ROOT / "core" / "abatis").with_suffix("").parts).removesuffix(".__init__") for path in CORE
}
FOR_PLUGINS = ("ground", "contract", "parts")


def layer(module: str) -> int | None:
    """The row of a module, or of the package it is in; None for ``abatis`` itself."""
    while module and module not in LAYERS:
        module = module.rpartition(".")[0]
    return LAYERS.get(module)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and modules (without ``abatis.``) of what a file imports from abatis, annotations apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    apart = {id(part) for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
             for part in ast.walk(node)}  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in apart:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "abatis":
            package = str(node.module).partition(".")[2]
            for name in node.names:
                below = f"{package}.{name.name}".lstrip(".")
                yield node.lineno, below if below in MODULES else package
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, name.name[7:]) for name in node.names if name.name.startswith("abatis."))


def test_every_module_is_in_the_table_and_nothing_else():
    top = {module.partition(".")[0] for module in MODULES} - {"__init__", "templates"}
    assert top == {name for name in LAYERS if "." not in name}
    assert set(LAYERS) <= MODULES


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_from_its_layer_and_those_above_it(path):
    own = layer(".".join(path.relative_to(ROOT / "core" / "abatis").with_suffix("").parts))
    for line, module in imported(path):
        found = layer(module)
        assert own is None or found is None or found <= own, f"line {line} imports abatis.{module} of a later layer"


PLUGIN_SOURCES = [path for path in SOURCES if path not in CORE]


@pytest.mark.parametrize("path", PLUGIN_SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_plugin_imports_the_lower_layers_only(path):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| (\w+) \| `", page, re.MULTILINE)
    for line, module in imported(path):
        found = layer(module)
        assert found is None or names[found] in FOR_PLUGINS, f"line {line} imports abatis.{module}"
