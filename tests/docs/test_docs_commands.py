"""Every command of the documentation is run, page by page, in an empty folder, in the order of the
page.

What would take hours is made small by one rule:

* ``defense-run`` with ``--help`` or ``--dry-run`` runs as it stands. On digits, on the files a
  page makes of them and on a ``--config`` it trains, with ``--epochs 1 --limit 60 --attack.steps
  1 --ladder none``; with ``--continue-from``, for a second epoch. Else ``--dry-run`` is added.
* ``defense eval`` judges 8 images with ``--ladder quick``; ``defense compare`` trains like
  ``defense-run`` above.
* A file or run folder that a command names, and the page does not make, stands in: a network of
  minutes, random images.
* Left to other tests: make, pip, pytest, torchrun, benchmarks, the plugin that the tutorials
  build, weights that come over the network, photographs and generated images, and corruptions, for
  which digits are too small.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from abatis import RunConfig, cli, run
from abatis.commands.registry import entries as registry
from tests.docs.test_docs import IDS, PAGES, plugins_named, shell_lines

pytestmark = pytest.mark.slow
SMALL = ["--epochs", "1", "--limit", "60", "--attack.steps", "1", "--ladder", "none"]
MADE_OF_DIGITS = ("digits", "npz:digits.npz", "folder:digits")
BLOCK = re.compile(r"(?P<before>[^\n]*)\n+```(?P<kind>python|toml|sh)\n(?P<text>.*?)```", re.DOTALL)
OVER_THE_NETWORK = ("convnext_tiny", "swin_base_patch4_window7_224", "rb:Salman2020Do_R50")
LARGE_DATA = ("folder:imagenet", "generated.npz")
TEACHERS = ("--seat.standard", "--seat.robust")  # run folders
RUN_PYTHON = ("quickstart.md", "bring-your-own.md")  # pages whose python blocks make files


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A finished run, judged in full on a few images."""
    folder = tmp_path_factory.mktemp("stand-in")
    options = {
        "data": "digits",
        "backbone": "cnn",
        "threat": "Linf:0.1",
        "epochs": 1,
        "limit": 60,
        "attack": {"steps": 1},
    }
    return run(RunConfig(**options, quiet=True, out=folder, name="run")).folder


@pytest.fixture
def here(tmp_path, monkeypatch, digits_run):
    """An empty folder, but for what the pages take as given."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs", "emr-wrn34-cifar10").symlink_to(digits_run)
    Path("models.py").write_text(
        "from torch import nn\ndef my_net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, "
        "10))"
    )
    make = np.random.default_rng(0)
    for name, side in (
        ("digits.npz", (8, 8)),
        ("data/cifar10.npz", (32, 32, 3)),
        ("data/mnist.npz", (28, 28)),
    ):
        Path(name).parent.mkdir(exist_ok=True)
        parts = {
            f"x_{part}": make.integers(0, 256, (40, *side), dtype=np.uint8)
            for part in ("train", "test")
        }
        np.savez(name, **parts, **{f"y_{part}": np.arange(40) % 10 for part in ("train", "test")})
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if shell_lines(page)], **IDS)
def test_the_commands_of_a_page_run(page, here):
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["kind"] == "sh":
            for line in block["text"].splitlines():
                execute(shlex.split(line, comments=True))
        elif named := re.search(r"[Ss]ave this as `([^`]+)`", block["before"]):
            Path(named[1]).write_text(block["text"], encoding="utf-8")
        elif page.name in RUN_PYTHON:
            subprocess.run([sys.executable, "-c", block["text"]], check=True, capture_output=True)


def execute(words: list[str]) -> None:
    """One command, made small; its exit code is 0."""
    if not words or words[0] not in ("defense", "defense-run"):
        return
    command = "run" if words[0] == "defense-run" else words[1]
    words = words[1 if words[0] == "defense-run" else 2 :]
    if (
        set(plugins_named(words)) - set(registry.read_registry())
        or set(words) & {*OVER_THE_NETWORK, *LARGE_DATA}
        or "--corruptions" in words
        or command == "new"
    ):
        return
    if command == "compare" and words[0].startswith("reports/"):
        return  # test_bring_your_own runs it as it stands; made small, they judge other images
    if "weights.safetensors" in words:
        made = stand_in(words, Path("made", "it"))
        Path("weights.safetensors").write_bytes((made / "weights.safetensors").read_bytes())
    for flag in TEACHERS:
        if value_of(words, flag):
            stand_in([*words, "--data", "cifar10"], Path(value_of(words, flag)))
    try:
        code = cli.main([command, *made_small(command, words)])
    except SystemExit as stop:  # --help
        code = stop.code
    assert not code, words


def made_small(command: str, words: list[str]) -> list[str]:
    if command == "eval":
        return [*without(words, ("--ladder", "--subset")), "--ladder", "quick", "--subset", "8"]
    if command == "compare" and "--methods" in words:
        return [*without(words, (*SMALL[::2], "--seeds")), "--seeds", "1", *SMALL[:-1], "quick"]
    if command == "sweep":
        return [*without(words, (*SMALL[::2], "--trials")), "--trials", "2", *SMALL[:-2]]
    if command != "run" or {"--help", "--dry-run"} & set(words):
        return words
    trains = "--config" in words or value_of(words, "--data") in MADE_OF_DIGITS
    if not trains:
        return [*words, "--dry-run"]
    more = ["--epochs", "2"] if "--continue-from" in words else []  # one more than that run
    return [*without(words, SMALL[::2]), *SMALL, *more]


def without(words: list[str], flags: tuple[str, ...] | list[str]) -> list[str]:
    """The words but for these flags and their values."""
    gone = {place + more for place, word in enumerate(words) if word in flags for more in (0, 1)}
    return [word for place, word in enumerate(words) if place not in gone]


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1] if flag in words else ""


def stand_in(words: list[str], folder: Path) -> Path:
    """A run folder of a network that fits that and the data of a command."""
    return run(
        RunConfig(
            backbone=value_of(words, "--backbone"),
            data=value_of(words, "--data"),
            augment="none",
            limit=20,
            epochs=1,
            attack={"steps": 1},
            eval="none",
            quiet=True,
            out=folder.parent,
            name=folder.name,
        )
    ).folder
