"""The help of every command: without torch, and with the sentence that ``defense --help`` shows."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

COMMANDS = {
    point.name: point
    for point in importlib.metadata.entry_points(group="abatis.commands")
    if point.dist is not None and point.dist.name == "abatis"
}


def run_without_torch(words):
    """What ``defense WORDS`` prints; fails where it loads torch."""
    call = f"with contextlib.suppress(SystemExit): cli.main({words})"
    code = (
        f"import contextlib, sys\nfrom abatis import cli\n{call}\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_needs_no_torch(name):
    shown = run_without_torch([name, "--help"])
    assert f"usage: defense {name}" in shown
    assert "options:" in shown


def test_the_list_of_commands_shows_the_first_line_of_each_docstring():
    shown = run_without_torch(["--help"])
    for name, point in COMMANDS.items():
        first = point.load().__doc__.splitlines()[0]
        assert f"{name:<10} {first}\n" in shown
        assert first.endswith(".")
        assert len(first) <= 80
