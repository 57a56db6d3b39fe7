"""csv:FILE, tables of paths and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from abatis.config.option_groups import SourceConfig
from abatis.errors import DataError
from tests.data.common import opened
from tests.data.folders import pixels, write

ROWS = [("a", "cat", "train"), ("b", "dog", "train"), ("c", "cat", "train"), ("d", "dog", "TEST")]


def table(root: Path, rows: list[tuple[str, ...]], head: str = "path,label,split") -> Path:
    """A table, with an image for each of its lines."""
    delimiter = next(sign for sign in ",;\t" if sign in head)
    for row in rows:
        write(root / "images" / f"{row[0]}.png")
    lines = [delimiter.join((f"images/{row[0]}.png", *row[1:])) for row in rows]
    file = root / "list.csv"
    file.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8-sig")
    return file


@pytest.mark.parametrize("head", ["path,label,split", "Image;Class;Subset", "file\ttarget\tset"])
def test_paths_labels_and_splits_are_read(tmp_path: Path, head: str) -> None:
    data = opened(f"csv:{table(tmp_path, ROWS, head)}", validation=0)
    assert data.info.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 0]
    assert data.test.labels.tolist() == [1]
    image = next(data.test.eval_batches(1)).x[0].numpy()
    np.testing.assert_array_equal(image, pixels(tmp_path / "images" / "d.png"))
    assert opened(f"csv:{tmp_path / 'list.csv'}", class_names=("dog", "cat")).test.labels == 0


def test_labels_of_a_test_set_without_some_classes_keep_their_names(tmp_path: Path) -> None:
    rows = [
        ("a", "ant", "train"),
        ("b", "bee", "train"),
        ("c", "cat", "train"),
        ("d", "cat", "val"),
    ]
    data = opened(f"csv:{table(tmp_path, rows)}")
    assert data.test.labels.tolist() == [2]
    rows[-1] = ("d", "dog", "val")
    with pytest.raises(DataError, match="1 classes are not in the training set: dog"):
        opened(f"csv:{table(tmp_path, rows)}")


def test_numbers_are_labels(tmp_path: Path) -> None:
    rows = [("a", "0", "train"), ("b", "10", "train"), ("c", "2", "train"), ("d", "10", "test")]
    data = opened(f"csv:{table(tmp_path, rows)}", validation=0)
    assert (data.info.class_names, data.info.num_classes) == ((), 11)
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 10, 2], [10])


def test_labels_that_count_from_1_are_doubted(tmp_path: Path) -> None:
    rows = [("a", "1", "train"), ("b", "2", "train"), ("d", "2", "test")]
    note = opened(f"csv:{table(tmp_path, rows)}").info.note
    assert "no image has label 0: do labels count from 1?" in note


def test_a_table_without_splits_is_divided_on_request(tmp_path: Path) -> None:
    rows = [(f"{n}", ("cat", "dog")[n % 2]) for n in range(10)]
    file = table(tmp_path, rows, "path,label")
    with pytest.raises(DataError, match="no test set"):
        opened(f"csv:{file}")
    data = opened(f"csv:{file}", source=SourceConfig(test_share=0.2))
    assert sorted(data.test.labels.tolist()) == [0, 1]
    assert len(data.train) + len(data.val or ()) == 8


def test_columns_are_asked_for_where_several_could_be_meant(tmp_path: Path) -> None:
    rows = [("a", "cat", "big", "train"), ("b", "dog", "small", "test")]
    rows += [("c", "dog", "small", "train")]
    file = table(tmp_path, rows, "path,label,class,split")
    with pytest.raises(DataError, match="2 columns could be the labels"):
        opened(f"csv:{file}")
    data = opened(f"csv:{file}", source=SourceConfig(label="class"))
    assert data.info.class_names == ("big", "small")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("images/d.png", "images/e.png"), "1 of 4 images do not exist"),
        (("images/d.png", "images/../images/a.png"), "1 images are listed twice"),
        (("d.png,dog", "d.png,"), "line 5 lacks an entry"),
        (("path", "place"), "no columns could be the images"),
    ],
)
def test_a_table_that_is_wrong_is_refused(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    file = table(tmp_path, ROWS)
    file.write_text(file.read_text(encoding="utf-8-sig").replace(*change))
    with pytest.raises(DataError, match=words):
        opened(f"csv:{file}")
    with pytest.raises(DataError, match="write csv:"):
        opened(str(file))
