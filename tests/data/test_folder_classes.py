"""folder:PATH: which label a class folder gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.common import opened
from tests.data.folders import facts, pets, pixels, write


def test_the_facts_name_the_classes_in_the_order_of_the_labels(tmp_path: Path) -> None:
    root = pets(tmp_path)
    for part in ("train", "val"):
        (root / part / "dog").rename(root / part / "Dog")
    assert facts(root).class_names == ("Dog", "cat")
    assert next(opened(f"folder:{root}").test.eval_batches(2)).y.tolist() == [0, 1]


NUMBERS = [str(number) for number in range(12)]


def numbered(root: Path, names: list[str], each: int = 1) -> Path:
    """A folder with some classes: ``each`` training images and one test image of every class."""
    for name in names:
        for number in range(each):
            write(root / "train" / name / f"{number}.png")
        write(root / "val" / name / "9.png")
    return root


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (NUMBERS, NUMBERS),
        (["10", "9", "08", "1"], ["1", "08", "9", "10"]),
        (["class10", "class2", "class1b", "bird"], ["bird", "class1b", "class2", "class10"]),
        (["n02", "n1", "n01"], ["n01", "n1", "n02"]),
        (["Dog", "cat", "Ant"], ["Ant", "Dog", "cat"]),
    ],
)
def test_numbers_in_the_names_of_classes_sort_by_value(
    tmp_path: Path, names: list[str], order: list[str]
) -> None:
    data = opened(f"folder:{numbered(tmp_path, names)}")
    assert list(data.info.class_names) == order
    for batch in data.test.eval_batches(1):
        expected = pixels(tmp_path / "val" / order[int(batch.y)] / "9.png")
        np.testing.assert_array_equal(batch.x[0].numpy(), expected)


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (NUMBERS, "0, 1, 2, 3, 4, ...; torchvision sorts them 0, 1, 10, 11, 2, ..."),
        (["cat", "Dog"], "Dog, cat; timm sorts them cat, Dog"),
        (["cat", "dog"], ""),
        (["00", "01", "10"], ""),
        (["n01440764", "n02102040"], ""),
    ],
)
def test_an_order_that_other_libraries_do_not_share_is_noted(
    tmp_path: Path, names: list[str], note: str
) -> None:
    found = facts(numbered(tmp_path, names)).note
    assert (note in found) if note else found == ""


def test_labels_follow_the_names_of_a_network_s_classes(tmp_path: Path) -> None:
    root = numbered(tmp_path, ["cat", "dog", "eel"], each=2)
    names = ("eel", "ant", "dog", "cat")
    data = opened(f"folder:{root}", class_names=names)
    assert (data.info.num_classes, data.info.class_names) == (4, names)
    assert "matched by name" in data.info.note
    assert "1 of its 4 classes have no image" in data.info.note
    seen = {}
    for batch in data.test.eval_batches(1):
        seen[names[int(batch.y)]] = batch.x[0].numpy()
    for name in ("cat", "dog", "eel"):
        np.testing.assert_array_equal(seen[name], pixels(root / "val" / name / "9.png"))
    others = facts(root, class_names=("cat", "dog"))  # the network does not know eels
    assert others.class_names == ("cat", "dog", "eel")
