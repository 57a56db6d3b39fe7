"""hf:NAME, on sets that the library datasets writes here; nothing is downloaded."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abatis.config.option_groups import SourceConfig
from abatis.data import Data, describe
from abatis.errors import DataError, UsageError
from tests.data.common import asked, opened


def square(value: int) -> dict[str, Any]:
    """A cell of images: a PNG file of one grey."""
    content = io.BytesIO()
    Image.fromarray(np.full((12, 12, 3), value, np.uint8)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": f"{value}.png"}


def make(
    values: range, names: list[str] | None = None, target: str = "label", **columns: Any
) -> Any:
    """A table of grey squares; the label is the brightness modulo the number of names."""
    datasets = pytest.importorskip("datasets")
    count = len(names or ["a", "b"])
    kind = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = {"image": datasets.Image(), target: kind}
    table = {"image": [square(v) for v in values], target: [v % count for v in values]}
    for name, (column, feature) in columns.items():
        table[name], features[name] = column, feature
    return datasets.Dataset.from_dict(table, features=datasets.Features(features))


def save(root: Path, **splits: Any) -> str:
    pytest.importorskip("datasets").DatasetDict(splits).save_to_disk(root)
    return f"hf:{root}"


def seen(split: Any) -> dict[int, int]:
    """The label of every image of a split, by its brightness."""
    found = {}
    for batch in split.eval_batches(100):
        values = (batch.x[:, 0, 0, 0] * 255).round().int().tolist()
        found |= dict(zip(values, batch.y.tolist(), strict=True))
    return found


def named(data: Data, split: Any) -> dict[int, str]:
    return {value: data.info.class_names[label] for value, label in seen(split).items()}


def source(**options: Any) -> dict[str, Any]:
    return {"source": SourceConfig(**options)}


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'abatis\[datasets\]'"):
        describe(asked("hf:cifar10"))


@pytest.mark.slow
def test_a_saved_set_is_read_with_its_names_and_published_splits(tmp_path: Path) -> None:
    spec = save(
        tmp_path, train=make(range(40), ["dog", "cat"]), test=make(range(100, 110), ["dog", "cat"])
    )
    data = opened(spec, validation=0)
    assert data.info == describe(asked(spec))
    assert (data.info.class_names, data.info.image_size) == (("dog", "cat"), 12)
    assert data.info.note == "the test set is the split test, the training set train"
    assert named(data, data.train) == {v: ("dog", "cat")[v % 2] for v in range(40)}
    assert named(data, data.test) == {v: ("dog", "cat")[v % 2] for v in range(100, 110)}
    again = opened(spec, validation=0, workers=1)
    assert seen(again.test) == seen(data.test)


@pytest.mark.slow
def test_labels_are_matched_by_name_between_the_splits_and_to_the_network(tmp_path: Path) -> None:
    spec = save(
        tmp_path / "two",
        train=make(range(40), ["dog", "cat"]),
        test=make(range(100, 110), ["cat", "dog"]),
    )
    data = opened(spec)
    assert data.info.class_names == ("dog", "cat")
    assert named(data, data.test) == {v: ("cat", "dog")[v % 2] for v in range(100, 110)}
    network = opened(spec, class_names=("cat", "cow", "dog"))
    assert network.info.class_names == ("cat", "cow", "dog")
    assert named(network, network.test) == named(data, data.test)
    assert "matched by name to the classes of the network" in network.info.note
    other = save(
        tmp_path / "three",
        train=make(range(40), ["dog", "cat"]),
        test=make(range(9), ["cat", "dog", "eel"]),
    )
    with pytest.raises(DataError, match="1 classes are not in the training set: eel"):
        opened(other)


@pytest.mark.slow
def test_a_test_set_without_labels_is_not_judged(tmp_path: Path) -> None:
    hidden = make(range(200, 210), ["dog", "cat"])
    hidden = hidden.remove_columns("label").add_column(
        "label", [-1] * 10, feature=hidden.features["label"]
    )
    spec = save(
        tmp_path,
        train=make(range(40), ["dog", "cat"]),
        validation=make(range(100, 110), ["dog", "cat"]),
        test=hidden,
    )
    data = opened(spec)
    assert sorted(seen(data.test)) == list(range(100, 110))
    assert "split validation" in data.info.note
    assert "not read: test" in data.info.note
    with pytest.raises(DataError, match="10 of 10 images have no label"):
        opened(f"{spec}:test")


@pytest.mark.slow
def test_columns_are_found_by_type_or_asked_for(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    coarse = ([v % 3 for v in range(12)], datasets.ClassLabel(names=["x", "y", "z"]))
    table = make(range(12), ["a", "b", "c", "d"], "fine_label", coarse_label=coarse)
    spec = save(tmp_path / "cifar100", train=table, test=table.select(range(4)))
    fine = opened(spec)
    assert fine.info.num_classes == 4
    assert "labels are fine_label, not coarse_label" in fine.info.note
    assert "4 of 4 test images are copies of training images" in fine.info.note
    assert opened(spec, **source(label="coarse_label")).info.class_names == ("x", "y", "z")
    with pytest.raises(DataError, match=r"column 'image' does not hold labels; the columns are"):
        opened(spec, **source(label="image"))
    both = make(range(12), ["a", "b"], "one", two=coarse)
    with pytest.raises(DataError, match=r"no columns could be the labels.*one, two"):
        opened(save(tmp_path / "both", train=both, test=both))
    words = make(
        range(12), None, "id", label=([f"w{v % 3}" for v in range(12)], datasets.Value("string"))
    )
    data = opened(save(tmp_path / "words", train=words, test=words.select([4, 5])), validation=0)
    assert data.info.class_names == ("w0", "w1", "w2")
    assert named(data, data.test) == {4: "w1", 5: "w2"}


@pytest.mark.slow
def test_parquet_files_are_read_with_and_without_the_library_s_types(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = make(range(8), ["dog", "cat"])
    folder = tmp_path / "typed" / "data"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    assert opened(f"hf:{tmp_path / 'typed'}").info.class_names == ("dog", "cat")
    plain = tmp_path / "plain" / "data"
    plain.mkdir(parents=True)
    frame = pandas.DataFrame(
        {"image": [square(v) for v in range(8)], "label": [v % 2 for v in range(8)]}
    )
    for split in ("train", "test"):
        frame.to_parquet(plain / f"{split}-00000-of-00001.parquet")
    data = opened(f"hf:{tmp_path / 'plain'}")
    assert (data.info.class_names, data.info.num_classes) == ((), 2)
    assert seen(data.test) == {v: v % 2 for v in range(8)}


@pytest.mark.slow
def test_a_stream_gives_as_many_images_as_asked_for_the_same_each_time(tmp_path: Path) -> None:
    names = ["dog", "cat"]
    spec = save(tmp_path, train=make(range(60), names), test=make(range(100, 160), names))
    data, again = (opened(spec, validation=0, **source(stream=20)) for _ in range(2))
    assert (len(data.train), len(data.test)) == (20, 20)
    assert seen(data.test) == seen(again.test) == {v: v % 2 for v in seen(data.test)}
    assert sorted(seen(data.test)) != list(range(100, 120))  # shuffled
    assert "20 images of test are read from its shuffled stream, not the whole" in data.info.note


@pytest.mark.slow
def test_splits_are_never_mixed(tmp_path: Path) -> None:
    names = ["dog", "cat"]
    one = save(tmp_path / "one", train=make(range(40), names))
    with pytest.raises(DataError, match="no test set: the splits are train"):
        opened(one)
    with pytest.raises(DataError, match="no training set beside train"):
        opened(f"{one}:train")
    judged = opened(f"{one}:train", trains=False)
    assert (len(judged.train), len(judged.test)) == (0, 40)
    divided = opened(one, validation=0, **source(test_share=0.25))
    assert (len(divided.train), len(divided.test)) == (30, 10)
    assert not seen(divided.train).keys() & seen(divided.test).keys()
    assert "without a test set: 10 of 40 images" in divided.info.note
    two = save(
        tmp_path / "two",
        train=make(range(40), names),
        validation=make(range(50, 60), names),
        test=make(range(70, 80), names),
    )
    both = opened(f"{two}:train+validation,test", validation=0)
    assert sorted(seen(both.train)) == [*range(40), *range(50, 60)]
    with pytest.raises(DataError, match="would share train"):
        opened(f"{two}:train,train")


@pytest.mark.slow
def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="no such folder"):
        opened("hf:./none")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set, so only the local cache is read"):
        opened("hf:nobody/nothing")
    with pytest.raises(UsageError, match=r"--source.revision does not apply to digits"):
        opened("digits", **source(revision="main"))
