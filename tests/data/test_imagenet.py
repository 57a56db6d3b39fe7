"""imagenet:PATH and tiny-imagenet:PATH, in the layouts that are published."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest

from abatis.commands.eval.points import find_positions
from abatis.data import Data
from abatis.data.wnids import read_wnids
from abatis.errors import DataError
from tests.data.common import opened
from tests.data.folders import write
from tests.reference import reference_dir

WNIDS = ("n01440764", "n02102040", "n03888257")  # outputs 0, 217 and 701


def make(root: Path, parts: tuple[str, ...] = ("train", "val"), names: Any = WNIDS) -> Path:
    for part in parts:
        for number, name in enumerate(names):
            for copy in range(2):
                write(root / part / name / f"ILSVRC2012_val_{10 * number + copy:08d}.JPEG")
    return root


def labels(data: Data) -> dict[str, int]:
    """The label of every folder of the test set."""
    assert data.test_names is not None
    names = [Path(name).parent.name for name in data.test_names()]
    return dict(zip(names, data.test.labels.tolist(), strict=True))


def test_labels_are_those_of_imagenet_whatever_folders_are_there(tmp_path: Path) -> None:
    data = opened(f"imagenet:{make(tmp_path)}")
    assert (data.info.num_classes, data.info.class_names) == (1000, read_wnids())
    assert labels(data) == {"n01440764": 0, "n02102040": 217, "n03888257": 701}
    assert "3 of 1,000 classes are in the test set" in data.info.note
    mine = opened(f"imagenet:{tmp_path}", class_names=tuple(reversed(read_wnids())))
    assert labels(mine) == {"n01440764": 999, "n02102040": 782, "n03888257": 298}


def test_a_network_of_some_classes_gives_their_order(tmp_path: Path) -> None:
    """As with --label-map imagenet-r, or a network that was trained on the folders of a subset."""
    own = ("n03888257", "n01514668", "n02102040", "n01440764")
    data = opened(f"imagenet:{make(tmp_path)}", class_names=own)
    assert data.info.class_names == own
    assert labels(data) == {"n01440764": 3, "n02102040": 2, "n03888257": 0}
    other = opened(f"imagenet:{tmp_path}", class_names=own[:2])  # lacks two of the folders
    assert other.info.class_names == read_wnids()


def test_test_images_alone_are_enough_to_judge(tmp_path: Path) -> None:
    root = make(tmp_path / "one", ("val",))
    with pytest.raises(DataError, match="no train/"):
        opened(f"imagenet:{root}")
    data = opened(f"imagenet:{root}", trains=False)
    assert (len(data.train), len(data.test)) == (0, 6)
    flat = make(tmp_path / "sketch", (".",))  # V2, A, R and Sketch have no val/
    assert labels(opened(f"imagenet:{flat}", trains=False)) == labels(data)


def test_numbers_for_names_are_outputs(tmp_path: Path) -> None:
    root = make(tmp_path, (".",), ("0", "2", "10", "100"))  # as ImageNet-V2 has them
    data = opened(f"imagenet:{root}", trains=False)
    assert labels(data) == {"0": 0, "2": 2, "10": 10, "100": 100}
    assert "taken as numbers of classes" in data.info.note


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("n01440764", "n99999999"), "1 folders are no classes of ImageNet: n99999999"),
        (("n01440764", "cat"), "no classes of ImageNet: cat"),
        (("1", "1000"), "no classes of ImageNet: 1000"),
    ],
)
def test_other_classes_are_refused(tmp_path: Path, names: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        opened(f"imagenet:{make(tmp_path, names=names)}")


def test_validation_images_without_folders_have_no_labels(tmp_path: Path) -> None:
    make(tmp_path, ("train",))
    write(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match="their labels are not known"):
        opened(f"imagenet:{tmp_path}")
    with pytest.raises(DataError, match="no such folder"):
        opened(f"imagenet:{tmp_path / 'none'}")


@pytest.mark.parametrize("form", ["{wnid}/{stem}.JPEG", "{stem}.JPEG", "{stem}", "{wnid} {number}"])
def test_points_are_found_by_their_published_names(tmp_path: Path, form: str) -> None:
    data = opened(f"imagenet:{make(tmp_path)}")
    wanted = [("n03888257", 21), ("n01440764", 0), ("n02102040", 10)]
    lines = [
        form.format(wnid=wnid, number=number, stem=f"ILSVRC2012_val_{number:08d}")
        for wnid, number in wanted
    ]
    file = tmp_path / "points.txt"
    file.write_text("\n".join(lines) + "\n")
    found = data.test.subset(find_positions(file, data))
    assert sorted(found.labels.tolist()) == [0, 217, 701]
    names = data.test_names() if data.test_names else ()
    chosen = {Path(names[index]).name for index in found.index.tolist()}
    assert chosen == {f"ILSVRC2012_val_{number:08d}.JPEG" for _, number in wanted}


def test_a_point_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = opened(f"imagenet:{make(tmp_path)}")
    file = tmp_path / "points.txt"
    file.write_text(
        "n01440764/ILSVRC2012_val_00000000.JPEG\nn01440764/ILSVRC2012_val_00000010.JPEG\n"
    )
    with pytest.raises(
        DataError, match=r"n01440764/ILSVRC2012_val_00000010.JPEG.*is no test image"
    ):
        find_positions(file, data)


def test_the_published_5000_are_found_in_a_whole_validation_set(tmp_path: Path) -> None:
    folder = reference_dir()
    listed = None if folder is None else folder / "world" / "robustbench_imagenet_5000.txt.gz"
    if listed is None or not listed.exists():
        pytest.skip("no list of the fixed 5,000")
    rows = [line.split() for line in gzip.decompress(listed.read_bytes()).decode().splitlines()]
    assert (len(rows), len({wnid for wnid, _ in rows})) == (5000, 997)
    assert {wnid for wnid, _ in rows} <= set(read_wnids())
    rows = random.Random(0).sample(rows, 60)
    for wnid, number in rows:
        write(tmp_path / "val" / wnid / f"ILSVRC2012_val_{int(number):08d}.JPEG", (4, 4))
    write(tmp_path / "val" / "n01440764" / "ILSVRC2012_val_99999999.JPEG", (4, 4))
    data = opened(f"imagenet:{tmp_path}", trains=False)
    file = tmp_path / "points.txt"
    file.write_text("".join(f"{w}/ILSVRC2012_val_{int(n):08d}.JPEG\n" for w, n in rows))
    found = data.test.subset(find_positions(file, data))
    wnids = read_wnids()
    assert sorted(found.labels.tolist()) == sorted(wnids.index(wnid) for wnid, _ in rows)
    assert len(data.test) == 61


def make_tiny(root: Path) -> Path:
    for name in ("n02124075", "n01443537"):
        write(root / "train" / name / "images" / f"{name}_0.JPEG", (64, 64))
        write(root / "train" / name / "images" / f"{name}_1.JPEG", (64, 64))
        (root / "train" / name / f"{name}_boxes.txt").write_text("0 0 1 1\n")
    lines = []
    for number, name in enumerate(("n02124075", "n01443537", "n02124075")):
        write(root / "val" / "images" / f"val_{number}.JPEG", (64, 64))
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t1\t1\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n02124075\nn01443537\n")  # as published: not sorted
    return root


def test_tiny_imagenet_has_its_test_labels_from_the_list(tmp_path: Path) -> None:
    data = opened(f"tiny-imagenet:{make_tiny(tmp_path)}", validation=0)
    assert data.info.class_names == ("n01443537", "n02124075")
    assert (data.info.image_size, len(data.train), len(data.test)) == (64, 4, 3)
    assert data.test.labels.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="write tiny-imagenet:"):
        opened(f"folder:{tmp_path}")


def test_a_list_that_does_not_fit_the_images_is_refused(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    (tmp_path / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(DataError, match=r"2 images, 3 lines; val_1.JPEG"):
        opened(f"tiny-imagenet:{tmp_path}")
    (tmp_path / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match="list of labels cannot be read"):
        opened(f"tiny-imagenet:{tmp_path}")
