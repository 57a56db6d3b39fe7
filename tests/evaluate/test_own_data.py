"""A run judged on its own data: options about the data are honoured or refused, never dropped."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from abatis.commands.eval.choices import is_same_data
from abatis.commands.eval.judge_model import open_images
from abatis.commands.eval.options import make_parser
from abatis.errors import AbatisError, UsageError
from abatis.runs.model_spec import Kind, ModelSpec
from tests.helpers import tiny

CPU = torch.device("cpu")


@pytest.fixture
def table(tmp_path):
    """A list of images with two columns of labels, of which the second one is the other's turn."""
    rows = ["path,label,other,split"]
    for number in range(8):
        Image.new("RGB", (8, 8), (30 * number,) * 3).save(tmp_path / f"{number}.png")
        split = "train" if number < 4 else "test"
        rows.append(f"{number}.png,{'ab'[number % 2]},{'ab'[number // 2 % 2]},{split}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    return tmp_path / "list.csv"


def ask(table, *words, **options):
    """The images that ``defense eval RUN`` judges, and whether they are those of the training."""
    run = tiny(table.parent / "runs", data=f"csv:{table}", **options)
    subject = ModelSpec("runs/x", Kind.RUN, table.parent, run=run)
    asked = make_parser("defense eval").parse_args(["runs/x", *words])
    return open_images(asked, subject, CPU), is_same_data(asked, subject)


def labels_of(images):
    return images.test.labels.tolist()


def test_the_source_of_the_run_holds_and_another_one_is_honoured(table):
    own, same = ask(table)
    assert (labels_of(own), same) == ([0, 1, 0, 1], True)
    other, same = ask(table, "--source.label", "other")
    assert (labels_of(other), same) == ([0, 0, 1, 1], False)
    trained, same = ask(table, source={"label": "other"})
    assert (labels_of(trained), same) == ([0, 0, 1, 1], True)
    equal, same = ask(table, "--source.label", "other", source={"label": "other"})
    assert (labels_of(equal), same) == ([0, 0, 1, 1], True)
    back, same = ask(table, "--source.label", "label", source={"label": "other"})
    assert (labels_of(back), same) == ([0, 1, 0, 1], False)


def test_what_does_not_apply_to_the_data_is_refused(table):
    with pytest.raises(UsageError, match=r"--source.config does not apply"):
        ask(table, "--source.config", "x")
    with pytest.raises(AbatisError):
        ask(table, "--source.label", "absent")


def test_the_size_and_the_files_are_as_asked(table):
    smaller, same = ask(table, "--image-size", "4")
    assert (smaller.info.image_size, same) == (4, False)
    (table.parent / "7.png").write_bytes(b"broken")
    with pytest.raises(AbatisError):
        next(iter(ask(table)[0].test.eval_batches(8)))
    assert labels_of(ask(table, "--skip-broken")[0]) == [0, 1, 0]
