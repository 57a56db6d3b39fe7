"""The folders of the core are its layers: what may import what, how large things are, and that no
method is known by name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "core" / "abatis"
FOR_CLI = (
    "abatis",
    *(f"abatis.{name}" for name in ("errors", "system.entry_points", "system.printable")),
)
TEMPLATES = sorted((HOUSE / "commands" / "new" / "templates").glob("*/src/**/*.py"))
CORE = [path for path in sorted(HOUSE.rglob("*.py")) if "templates" not in path.parts]
OUTSIDE = [
    *sorted((ROOT / "plugins").glob("*/src/**/*.py")),
    *sorted((ROOT / "examples").glob("*/*/src/**/*.py")),
]
NAMES = ("emr", "mart", "mail", "sovr", "amm", "trades", "gairat", "awp", "ikl")

ORDER = (
    {"errors"},
    {"api"},
    {"system"},
    {"config"},
    {"data", "report"},
    {"nets"},
    {"train", "evaluate"},
    {"runs", "testing"},
    {"abatis"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""From the lowest layer to the highest. A module imports from its own folder and from lower layers,
never sideways.
"""
LAYERS = {name: number for number, names in enumerate(ORDER) for name in names}
ROOT_FILES = {"__init__.py", "__main__.py", "cli.py", "errors.py", "py.typed"}
LATE = {"cli.py", "commands"}
"""Where a function may import from the core: what finds commands, and commands, whose help must not
load torch.
"""


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """``abatis.train.step`` of a file."""
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in CORE}


def room_of(module: str) -> str:
    """The folder, or the file of the root, that a module of the core is in."""
    return module.split(".")[1] if "." in module else "abatis"


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines and modules of what a tree imports from the core, for types alone or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (node.lineno, name.name)
                for name in node.names
                if name.name.split(".")[0] == "abatis"
            )
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            if (node.module or "").split(".")[0] != "abatis":
                continue
            for name in node.names:
                below = f"{node.module}.{name.name}"
                yield node.lineno, below if below in MODULES else str(node.module)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_root_holds_four_modules_and_every_folder_has_a_layer():
    files = {path.name for path in HOUSE.iterdir() if path.is_file()}
    assert files == ROOT_FILES
    folders = {
        path.name for path in HOUSE.iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    assert folders == set(LAYERS) - {"abatis", "errors", "cli", "__main__"}


@pytest.mark.parametrize(
    "path", [path for path in CORE if path != HOUSE / "__init__.py"], ids=shown
)
def test_imports_go_down(path):
    own = room_of(module_of(path))
    for line, module in imported(tree_of(path)):
        room = room_of(module)
        assert room == own or LAYERS[room] < LAYERS[own], f"line {line}: {own} imports {module}"


def test_no_modules_import_each_other():
    graph = {
        module: {found for _, found in imported(tree_of(path)) if found in MODULES}
        for module, path in MODULES.items()
    }
    graph["abatis"] = set()  # its names are looked up when they are asked for
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for other in sorted(graph[module] - {module}):
                walk(other, (*way, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())


@pytest.mark.parametrize("path", CORE, ids=shown)
def test_no_function_imports_the_core(path):
    """But for commands and what finds them: their help must not load torch."""
    if path.relative_to(HOUSE).parts[0] in LATE and path.name in (
        "cli.py",
        "__init__.py",
        "run.py",
    ):
        return
    functions = [
        node
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    late = [
        f"line {line}: {module}" for function in functions for line, module in imported(function)
    ]
    assert not late


@pytest.mark.parametrize(
    "path", [HOUSE / "cli.py", *sorted((HOUSE / "commands").glob("*/__init__.py"))], ids=shown
)
def test_a_command_imports_the_standard_library_alone(path):
    """At its top; ``cli`` has the errors besides."""
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("abatis"):
            assert path.name == "cli.py"
            assert node.module in FOR_CLI


@pytest.mark.parametrize("path", CORE, ids=shown)
def test_the_core_knows_no_method_by_name(path):
    found = re.findall(rf"(?i)\b({'|'.join(NAMES)})\b", path.read_text(encoding="utf-8"))
    assert not found


@pytest.mark.parametrize("path", [*CORE, *TEMPLATES, *OUTSIDE], ids=shown)
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (400 if path in CORE else 150)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, (
                f"{node.name} is {node.end_lineno - node.lineno + 1} lines long"
            )


def strangers() -> list[Path]:
    """Every file that is written as a stranger would write it: plugins, examples and templates,
    tests included.
    """
    found = [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    return sorted([*found, *(HOUSE / "commands" / "new" / "templates").rglob("*.py")])


@pytest.mark.parametrize("path", strangers(), ids=shown)
def test_a_plugin_imports_the_contract_alone(path):
    """``abatis``, and ``abatis.testing`` in its tests: nothing else is promised to stay."""
    allowed = {"abatis", "abatis.testing"} if "tests" in path.parts else {"abatis"}
    others = [
        f"line {line}: {module}"
        for line, module in imported(tree_of(path))
        if module not in allowed
    ]
    assert not others
