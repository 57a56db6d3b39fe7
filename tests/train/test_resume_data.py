"""A run resumes on the images it was begun with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from abatis import run
from abatis.data import from_user
from abatis.data.digest import digest_split
from abatis.data.request import DataRequest
from abatis.errors import UsageError
from abatis.train.checkpoint import Loaded
from abatis.train.resume import Start, check_content
from tests.helpers import tiny


def make_images(seed=0, count=80):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return x, np.arange(count) % 4


def write(path, x, y):
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])


def test_a_split_is_its_places_labels_and_pixels():
    x, y = make_images()
    pixel, label = x.copy(), y.copy()
    pixel[7, 3, 3] ^= 1
    label[7] = (label[7] + 1) % 4
    sets = [(x, y), (x.copy(), y.copy()), (pixel, y), (x, label), (x[::-1], y), (x[:72], y[:72])]
    one, same, *others = (
        digest_split(from_user((given, given), DataRequest("user", augment="none")).test)
        for given in sets
    )
    assert one == same
    assert len({one, *others}) == 5
    floats = x[:, None].astype(np.float64) / 255
    as_floats = from_user(((floats, y), (floats, y)), DataRequest("user", augment="none"))
    assert digest_split(as_floats.test) == one


def test_images_that_changed_are_refused_on_resume(tmp_path):
    file = tmp_path / "mine.npz"
    x, y = make_images()
    write(file, x, y)
    wanted = {"name": "r", "data": f"npz:{file}", "limit": None}
    run(tiny(tmp_path, epochs=1, **wanted))
    write(file, x, y)  # the same content in a new file
    run(tiny(tmp_path, epochs=2, resume=True, **wanted))
    write(file, 255 - x, y)
    with pytest.raises(UsageError, match=r"data\.train was sha256:") as caught:
        run(tiny(tmp_path, epochs=3, resume=True, **wanted))
    assert "--allow-mismatch data.train --allow-mismatch data.val" in caught.value.fix
    allowed = ["data.train", "data.val"]
    run(tiny(tmp_path, epochs=3, resume=True, allow_mismatch=allowed, **wanted))
    said = (tmp_path / "r" / "environment.json").read_text()
    assert "data.train was sha256:" in said


def test_images_that_a_checkpoint_does_not_know_are_named(tmp_path):
    """Older checkpoints hold no digests; which images --limit chooses has changed since."""
    config = tiny(tmp_path)
    old = Start(Loaded(1, {}, {}, {"content": {}}, Path()), True)
    found = check_content(old, {"data.train": "a"}, config)
    assert found.differing == ("data.train was not recorded",)
    known = Start(Loaded(1, {}, {}, {"content": {"data.train": "a"}}, Path()), True)
    assert check_content(known, {"data.train": "a"}, config).differing == ()
    with pytest.raises(UsageError, match=r"extra\.file was None, now x"):
        check_content(known, {"data.train": "a", "extra.file": "x"}, config)


TEACHER = """
from pathlib import Path
from abatis import PluginConfig, hookimpl

class TaughtConfig(PluginConfig):
    teacher: Path
    words: str = "1.5"

@hookimpl
def defense_config():
    return TaughtConfig
"""


def test_a_file_that_an_option_of_a_plugin_names_is_part_of_the_run(tmp_path):
    plugin, teacher = tmp_path / "taught.py", tmp_path / "teacher.pt"
    plugin.write_text(TEACHER)
    teacher.write_text("one")
    wanted = {"name": "r", "plugin": str(plugin), "options": {"taught": {"teacher": teacher}}}
    run(tiny(tmp_path, epochs=1, **wanted))
    run(tiny(tmp_path, epochs=2, resume=True, **wanted))
    teacher.write_text("two")
    with pytest.raises(UsageError, match=r"taught\.teacher was sha256:") as caught:
        run(tiny(tmp_path, epochs=3, resume=True, **wanted))
    assert "--allow-mismatch taught.teacher" in caught.value.fix
    run(tiny(tmp_path, epochs=3, resume=True, allow_mismatch=["taught.teacher"], **wanted))


WRITER = """
from pathlib import Path
from abatis import PluginConfig, TrainerHooks, hookimpl

class DiaryConfig(PluginConfig):
    file: str

class Diary(TrainerHooks):
    def __init__(self, run):
        self.file = Path(run.config(DiaryConfig).file)

    def epoch_end(self, epoch):
        self.file.write_text(f"epoch {epoch}")

@hookimpl
def defense_config():
    return DiaryConfig

@hookimpl
def defense_trainer(run):
    return Diary(run)
"""


def test_a_file_that_the_run_writes_itself_does_not_stop_its_resume(tmp_path):
    plugin, file = tmp_path / "diary.py", tmp_path / "diary.txt"
    plugin.write_text(WRITER)
    wanted = {"name": "r", "plugin": str(plugin), "options": {"diary": {"file": str(file)}}}
    for epochs in (1, 2, 3):  # the third resume begins with a checkpoint of a resumed run
        run(tiny(tmp_path, epochs=epochs, resume=epochs > 1, **wanted))
        assert file.read_text() == f"epoch {epochs - 1}"
    assert "diary.file" not in (tmp_path / "r" / "environment.json").read_text()


def test_looking_at_images_leaves_the_generators_as_they_were():
    x, y = make_images()
    data = from_user(((x, y), (x, y)), DataRequest("user"))
    before = torch.random.get_rng_state()
    digest_split(data.train)
    assert torch.equal(torch.random.get_rng_state(), before)
