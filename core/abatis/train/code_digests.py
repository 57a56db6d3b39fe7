"""Digests of the user's code that a run is made of: its network, its plugins, what they import.

A run that continues with another network or another plugin would give numbers of neither.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor, nn

from abatis.config import discovery
from abatis.config.run_config import RunConfig
from abatis.nets.backbones.names import is_factory
from abatis.nets.digest import print_structure
from abatis.system.files import digest, sha256_of

LIBRARIES = frozenset({"builtins", "torch", "torchvision", "timm", "abatis"})
"""Packages whose code is known by its version."""
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def digest_code(config: RunConfig, model: nn.Module | None = None) -> dict[str, str]:
    """The sha256 of the code behind a run, by the name that ``--allow-mismatch`` takes.

    ``backbone.file`` is the file of a factory, ``backbone.layers.py`` a file beside it that it
    imports, ``model.structure`` a network given from Python, ``NAME.source`` the package of an
    installed plugin, ``NAME.helper.py`` a file beside a plugin's file. The file of a plugin itself
    is its version.

    Args:
        config: The run.
        model: The network, where it was given from Python.
    """
    found: dict[str, str] = {}
    if model is not None:
        found["model.structure"] = digest_structure(model)
    elif is_factory(config.backbone):
        path = Path(config.backbone.rpartition(":")[0]).expanduser().absolute()
        if path.is_file():  # building the network says it otherwise
            found["backbone.file"] = _hash(path)
            found |= _hash_imports("backbone", path)
    for plugin in discovery.load_plugins(config.plugin):
        if plugin.file is not None:
            found |= _hash_imports(plugin.name, plugin.file)
        elif source := _hash_package(plugin.module):
            found[f"{plugin.name}.source"] = source
    return found


def digest_structure(model: nn.Module) -> str:
    """The sha256 of what a network is made of, whatever its weights are.

    That is its printed form, the names, shapes and kinds of its tensors, and the source of the
    user's classes in it without comments.
    """
    tensors = [
        [name, _describe(tensor), tensor.requires_grad]
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    ]
    classes = {base for part in model.modules() for base in type(part).__mro__}
    sources = {
        kind.__qualname__: _read_source(kind)
        for kind in classes
        if kind.__module__.partition(".")[0] not in LIBRARIES
    }
    printed = print_structure(model)
    return f"sha256:{digest({'printed': printed, 'tensors': tensors, 'sources': sources})}"


def _describe(tensor: Tensor) -> str:
    try:
        return f"{tensor.dtype} {tuple(tensor.shape)}"
    except RuntimeError:  # a lazy layer has no shape yet
        return f"{tensor.dtype}"


def find_local_imports(path: Path) -> dict[str, Path]:
    """The Python files in a file's folder, and in the one above, that it imports.

    Also through each other, and by name, as in ``import_module("layers")``. They are found in the
    text; nothing is run. Files elsewhere are not among them.

    Returns:
        The files by their path from the folder, like ``layers.py`` or ``../layers.py``.
    """
    folder, found, waiting = path.parent, {path}, [path]
    while waiting:
        file = waiting.pop()
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # running it says so
        for module in _find_files(_list_imports(tree, file, folder)):
            if module not in found:
                found.add(module)
                waiting.append(module)
    return {
        Path(os.path.relpath(file, folder)).as_posix(): file
        for file in sorted(found - {path})
        if file.is_relative_to(folder.parent)
    }


def _list_imports(tree: ast.AST, file: Path, folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every imported name: the folder where it is looked for, and the parts of its path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _look_up(folder, alias.name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if MODULE.fullmatch(node.value):
                yield from _look_up(folder, node.value.split("."))
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            for alias in node.names:
                if node.level == 0:
                    yield from _look_up(folder, [*module, alias.name])
                else:
                    yield file.parents[node.level - 1], [*module, alias.name]


def _look_up(folder: Path, parts: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """Where a module may lie: beside the file, or in the folder above, as ``sys.path`` may say."""
    yield folder, parts
    yield folder.parent, parts


def _find_files(imports: Iterable[tuple[Path, list[str]]]) -> Iterator[Path]:
    for start, parts in imports:
        place = start
        for part in parts:
            place = place / part
            for file in (place.with_name(f"{part}.py"), place / "__init__.py"):
                if file.is_file():
                    yield file


def _hash_imports(owner: str, path: Path) -> dict[str, str]:
    return {f"{owner}.{name}": _hash(file) for name, file in find_local_imports(path).items()}


def _hash_package(module: object) -> str | None:
    """The sha256 of a plugin's package, or of its module where that is a single file."""
    owner = module if inspect.ismodule(module) else sys.modules.get(type(module).__module__)
    file = Path(getattr(owner, "__file__", None) or "")
    if not file.is_file():
        return None
    if file.name != "__init__.py":
        return _hash(file)
    files = sorted(file.parent.rglob("*.py"))
    parts = {one.relative_to(file.parent).as_posix(): sha256_of(one) for one in files}
    return f"sha256:{digest(parts)}"


def _hash(path: Path) -> str:
    return f"sha256:{sha256_of(path)}"


def _read_source(kind: type) -> str:
    """The source of a class without comments and layout; empty where it cannot be found."""
    try:
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(kind))))
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""
