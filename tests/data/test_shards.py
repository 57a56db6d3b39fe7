"""webdataset:PATH, on archives made here."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abatis.config.option_groups import SourceConfig
from abatis.data import describe
from abatis.errors import DataError
from tests.data.common import asked, opened


def png(value: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((12, 12, 3), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def shard(path: Path, values: range, *, form: str = "cls", **more: bytes) -> Path:
    """An archive of grey squares, whose label is the brightness modulo 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for value in values:
            label = str(value % 3).encode() if form == "cls" else json.dumps({"label": value % 3})
            content = label if isinstance(label, bytes) else label.encode()
            for name, data in ((f"{value:06d}.png", png(value)), (f"{value:06d}.{form}", content)):
                add(tar, name, data)
        for name, data in more.items():
            add(tar, name.replace("_", "."), data)
    return path


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def seen(split: Any) -> dict[int, int]:
    found = {}
    for batch in split.eval_batches(100):
        values = (batch.x[:, 0, 0, 0] * 255).round().int().tolist()
        found |= dict(zip(values, batch.y.tolist(), strict=True))
    return found


def right(values: range) -> dict[int, int]:
    return {value: value % 3 for value in values}


def make(root: Path, form: str = "cls") -> Path:
    shard(root / "my-train-000.tar", range(20), form=form)
    shard(root / "my-train-001.tar", range(20, 40), form=form)
    shard(root / "my-val-000.tar", range(100, 112), form=form)
    return root


@pytest.mark.parametrize("form", ["cls", "json"])
def test_shards_of_a_folder_are_split_by_their_names(tmp_path: Path, form: str) -> None:
    data = opened(f"webdataset:{make(tmp_path, form)}", validation=0)
    assert (data.info.num_classes, data.info.image_size, data.info.class_names) == (3, 12, ())
    assert seen(data.train) == right(range(40))
    assert seen(data.test) == right(range(100, 112))
    assert data.info == describe(asked(f"webdataset:{tmp_path}"))
    again = opened(f"webdataset:{tmp_path}", validation=0, workers=1)
    assert seen(again.train) == right(range(40))


@pytest.mark.parametrize("first", ["cls", "json"])
def test_a_cls_file_counts_whatever_a_table_beside_it_says(tmp_path: Path, first: str) -> None:
    make(tmp_path)
    both = {"000200_cls": b"2", "000200_json": b'{"label": "cat"}'}
    ordered = {key: both[key] for key in sorted(both, reverse=first == "json")}
    shard(tmp_path / "my-val-000.tar", range(100, 103), **{"000200_png": png(200), **ordered})
    assert seen(opened(f"webdataset:{tmp_path}").test)[200] == 2


def test_names_beside_the_shards_are_kept_and_matched(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "classnames.txt").write_text("dog\ncat\neel\n")
    data = opened(f"webdataset:{tmp_path}", class_names=("cat", "dog", "eel"))
    assert data.info.class_names == ("cat", "dog", "eel")
    assert seen(data.test) == {value: (1, 0, 2)[value % 3] for value in range(100, 112)}


def test_shards_are_named_by_patterns(tmp_path: Path) -> None:
    make(tmp_path)
    spec = f"webdataset:{tmp_path}/my-train-{{000..001}}.tar,{tmp_path}/my-val-000.tar"
    data = opened(spec, validation=0)
    assert (seen(data.train), seen(data.test)) == (right(range(40)), right(range(100, 112)))
    judged = opened(f"webdataset:{tmp_path}/my-val-000.tar", trains=False)
    assert (len(judged.train), seen(judged.test)) == (0, right(range(100, 112)))
    share = SourceConfig(test_share=0.25)
    divided = opened(f"webdataset:{tmp_path}/my-train-{{000..001}}.tar", source=share)
    assert len(divided.test) == 10
    with pytest.raises(DataError, match="no such shard"):
        opened(f"webdataset:{tmp_path}/my-train-{{000..002}}.tar,{tmp_path}/my-val-000.tar")


def test_a_missing_shard_is_noticed(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "my-train-001.tar").rename(tmp_path / "my-train-003.tar")
    with pytest.raises(DataError, match="2 shards are missing, the first is number 1"):
        opened(f"webdataset:{tmp_path}")


@pytest.mark.parametrize("cut", [300, 1024])
def test_a_shard_that_was_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    make(tmp_path)
    file = tmp_path / "my-val-000.tar"
    with tarfile.open(file) as tar:
        ends = [entry.offset for entry in tar]
    end = ends[4] if cut == 1024 else ends[4] + 512 + 20  # between two samples, inside an image
    file.write_bytes(file.read_bytes()[:end])
    with pytest.raises(DataError, match="the shard cannot be read") as caught:
        opened(f"webdataset:{tmp_path}")
    assert "my-val-000.tar" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"x_png": png(1)}, "1 samples lack an image or a label: /x"),
        ({"x_cls": b"1"}, "1 samples lack an image or a label: /x"),
        ({"x_png": png(1), "x_cls": b"cat"}, "holds 'cat', not the number of a class"),
        ({"x_png": png(1), "x_json": b'{"label": true}'}, "is True, not the number"),
        ({"x_png": png(1), "x_jpg": png(1), "x_cls": b"1"}, "sample x has two images"),
    ],
)
def test_samples_that_are_not_whole_are_named(
    tmp_path: Path, more: dict[str, bytes], words: str
) -> None:
    make(tmp_path)
    shard(tmp_path / "my-val-000.tar", range(100, 103), **more)
    with pytest.raises(DataError, match=words):
        opened(f"webdataset:{tmp_path}")


def test_a_sample_in_two_shards_and_compressed_shards_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    shard(tmp_path / "my-train-001.tar", range(19, 25))
    with pytest.raises(DataError, match="the sample /000019 is in two shards"):
        opened(f"webdataset:{tmp_path}")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "train-0.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="is compressed: unpack it"):
        opened(f"webdataset:{tmp_path / 'packed'}")
    with pytest.raises(DataError, match="write webdataset:"):
        opened(str(tmp_path / "my-val-000.tar"))
