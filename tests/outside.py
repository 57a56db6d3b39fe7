"""A Python environment outside the checkout, with the libraries of this one but nothing of ours."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

Call = Callable[..., str]
OURS = ("abatis", "_abatis", "__editable__")
"""How the names of what this checkout installs begin."""


def make_environment(home: Path) -> tuple[Path, Call]:
    """Make an environment in ``home/venv``; nothing is fetched.

    Returns:
        The folder of its programs, and a function that runs a program of it in ``home`` and
        returns its output. The exit code must be ``code``, by default 0.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    programs = home / "venv" / "bin"
    where = [programs / "python", "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    (home / "libraries").mkdir()
    for found in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not found.name.startswith(OURS) and found.suffix != ".pth":
            (home / "libraries" / found.name).symlink_to(found)
    (site / "libraries.pth").write_text(f"{home / 'libraries'}\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PIP_NO_INDEX": "1", "PATH": f"{programs}{os.pathsep}{environment['PATH']}"}

    def call(*words: str, cwd: Path = home, code: int = 0) -> str:
        done = subprocess.run(
            words, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said[-3000:]
        return said if code else done.stdout

    return programs, call
