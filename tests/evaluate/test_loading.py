"""One module of the evaluation can be used without the others."""

from __future__ import annotations

import subprocess
import sys

import pytest

import abatis.evaluate

ALONE = ("judge", "pgd", "curves", "deepfool", "margins", "masking.record", "record")


def run_python(code):
    """The modules that are loaded after some code, in a new process."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_most_modules_load_no_autoattack():
    code = "\n".join(f"import abatis.evaluate.{name}" for name in ALONE)
    loaded = run_python(code + "\nfrom abatis.evaluate import judge_clean, margin")
    assert "abatis.evaluate.pgd" in loaded
    assert "pyautoattack" not in loaded
    assert "abatis.evaluate.evaluation" not in loaded


def test_every_name_is_found():
    for name in dir(abatis.evaluate):
        assert getattr(abatis.evaluate, name).__name__ == name
    assert dir(abatis.evaluate) == sorted(abatis.evaluate.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = abatis.evaluate.nothing
