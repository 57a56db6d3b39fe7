"""The core does without what only some systems have: it is imported and run with that hidden."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty")
"""Modules of Python that Windows lacks."""
FUNCTIONS = ("fork", "getuid", "setsid", "O_NOFOLLOW", "O_CLOEXEC", "EX_TEMPFAIL", "EX_USAGE")
"""Names in ``os`` that Windows lacks."""
CORE = f"""
import importlib, os, pkgutil, signal, sys
from abatis.system.timm_import import timm  # libraries look for themselves what the system has
import filelock, multiprocessing, sklearn.datasets, torch.utils.data
for name in [name for name in sys.modules if name.partition(".")[0] == "abatis"]:
    del sys.modules[name]
for name in {HIDDEN!r}:
    sys.modules[name] = None
for name in {FUNCTIONS!r}:
    if hasattr(os, name):
        delattr(os, name)
del signal.SIGHUP
import abatis
for module in pkgutil.walk_packages(abatis.__path__, "abatis."):
    if ".templates" not in module.name and not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:  # a library of an extra that is not installed here
            assert error.name and error.name.partition(".")[0] in ("mlflow", "wandb", "tensorboard")
"""
RUN = """
options = {"data": "digits", "backbone": "cnn", "threat": "Linf:0.1", "eval": "quick",
           "limit": 60, "batch_size": 32, "attack": {"steps": 1}, "quiet": True, "name": "r"}
from abatis.system import folder_lock, signals
signals.leave_terminal()
first = abatis.run(abatis.RunConfig(**options, epochs=1))
second = abatis.run(abatis.RunConfig(**options, epochs=1, resume=True))
assert second.clean_acc == first.clean_acc
assert "peak_memory_mb" not in (second.folder / "metrics.jsonl").read_text()
with folder_lock.lock_folder(second.folder):
    try:
        abatis.run(abatis.RunConfig(**options, epochs=1, resume=True))
    except abatis.UsageError as error:
        assert f"process {os.getpid()} on " in str(error), error
    else:
        raise AssertionError("two runs in one folder")
    assert str(os.getpid()) in folder_lock.find_writer(second.folder)
assert not folder_lock.find_writer(second.folder)
"""


def find_top_imports(source):
    """What a module imports when it is imported, but for what it does without."""
    for node in ast.parse(source).body:
        for name in node.names if isinstance(node, ast.Import) else []:
            yield name.name
        if isinstance(node, ast.ImportFrom):
            yield node.module


def test_no_module_needs_at_once_what_windows_lacks():
    assert list(find_top_imports("import fcntl\nwith x:\n    import pwd")) == ["fcntl"]
    files = [file for file in (ROOT / "core").rglob("*.py") if "templates" not in file.parts]
    needed = [
        (file, name)
        for file in [*files, *ROOT.glob("plugins/*/src/**/*.py")]
        for name in find_top_imports(file.read_text(encoding="utf-8"))
        if name in HIDDEN
    ]
    assert needed == []


@pytest.mark.slow
def test_the_core_is_imported_and_runs_without_what_windows_lacks(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CORE + RUN],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_versions_of_python_that_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = "Programming Language :: Python :: 3."
    minor = [int(one.removeprefix(told)) for one in project["classifiers"] if told in one]
    assert minor == [11, 12, 13, 14]
    assert project["requires-python"] == f">=3.{minor[0]}"
    assert sys.version_info[:2] >= (3, minor[0])
