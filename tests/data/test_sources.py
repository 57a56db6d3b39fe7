"""The table of data sources: a new one is one file and one line."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from abatis.cli import run
from abatis.config.built_in import DATA_SOURCES
from abatis.data import View, describe, open_data
from abatis.data.sources import is_streamed
from abatis.errors import DataError, UsageError
from tests.data.common import asked

MINE = '''
import numpy as np
import torch

from abatis.data.arrays import Arrays
from abatis.data.in_memory import open_arrays
from abatis.data.info import DataInfo
from abatis.data.sources import DataSource


class Mine(DataSource):
    """Grey squares: as many as the file says, the label is the brightness."""

    def describe(self, request):
        return DataInfo(request.spec, 2, 1, 8, (0.5,), (0.25,), "none", "squares")

    def open(self, request):
        count = int(request.path.read_text())
        y = torch.arange(count) % 2
        x = (y * 200).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
        return open_arrays(Arrays(x, y, x[:4], y[:4]), self.describe(request), request)

    def matches(self, path):
        return path.suffix == ".squares"


MINE = Mine()
'''


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``mine:PATH`` with 40 images, a source of one file and one line."""
    (tmp_path / "squares_of_mine.py").write_text(MINE)
    (tmp_path / "forty.squares").write_text("40")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(DATA_SOURCES, "mine:PATH", "squares_of_mine:MINE")
    return f"mine:{tmp_path / 'forty.squares'}"


def test_a_new_source_is_opened_like_ours(spec: str) -> None:
    assert describe(asked(spec)).note == "squares"
    data = open_data(asked(spec, limit=20))
    assert (len(data.train), len(data.val or ()), len(data.test)) == (18, 2, 2)
    batch = next(data.test.eval_batches(2))
    assert batch.x.amax((1, 2, 3)).mul(255).tolist() == [0, 200]
    assert not is_streamed(spec)


@pytest.mark.slow
def test_a_new_source_is_trained_and_judged_from_the_command_line(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"--data {spec} --backbone cnn --threat Linf:0.1 --epochs 1 --attack.steps 1"
    assert run([*line.split(), "--eval", "quick", "--out", str(tmp_path / "runs")]) == 0
    assert "mine:forty.squares" in capsys.readouterr().out
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "at-cnn-forty"
    assert tomllib.loads((folder / "run.toml").read_text())["data"] == spec


def test_a_new_source_is_proposed_in_errors(spec: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'mine:PATH'"):
        describe(asked("mine"))
    with pytest.raises(DataError, match="write mine:"):
        describe(asked(str(tmp_path / "forty.squares")))
    with pytest.raises(DataError, match="torchvision:NAME, hf:NAME or mine:PATH"):
        describe(asked("something-else"))


def test_options_of_image_files_do_not_apply_to_it(spec: str) -> None:
    with pytest.raises(UsageError, match="apply to image files"):
        open_data(asked(spec, view=View(erasing=0.5)))


def test_every_source_can_be_loaded_and_says_whether_it_is_streamed() -> None:
    streamed = {key: is_streamed(key) for key in DATA_SOURCES}
    assert [key for key, value in streamed.items() if not value] == [
        "digits",
        "cifar10",
        "cifar100",
        "svhn",
        "mnist",
        "npz:PATH",
    ]
    assert not is_streamed("python:tuple")


def test_digits_are_opened_without_the_libraries_of_image_files() -> None:
    program = """
import sys
from abatis.data import DataRequest, open_data
assert len(open_data(DataRequest("digits", limit=20)).test) == 6
print([name for name in ("PIL", "timm", "torchvision") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
