"""torchvision:NAME, on the published layouts with tiny images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abatis.config.option_groups import SourceConfig
from abatis.data import Data, describe
from abatis.data.sources.from_torchvision import SETS
from abatis.errors import DataError, UsageError
from abatis.system.timm_import import torchvision
from tests.data.common import asked, opened


def paint(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (value, value, value)).save(path)


def seen(data: Data, part: str) -> dict[int, int]:
    """The label of every image of a split, by its brightness up to 2 levels of JPEG."""
    found = {}
    for batch in getattr(data, part).eval_batches(100):
        values = (batch.x[:, 0, 8, 8] * 255).round().int().tolist()
        found |= dict(zip(values, batch.y.tolist(), strict=True))
    return found


def named(data: Data, part: str) -> dict[int, str]:
    return {value: data.info.class_names[label] for value, label in seen(data, part).items()}


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_food(root: Path) -> None:
    base = root / "food-101"
    for split, first in (("train", 10), ("test", 110)):
        listed = {"waffles": ["waffles/1", "waffles/2"], "apple_pie": ["apple_pie/1"]}
        listed = {k: [f"{v}{split}" for v in vs] for k, vs in listed.items()}
        put(base / "meta" / f"{split}.json", json.dumps(listed))
        for number, name in enumerate(name for names in listed.values() for name in names):
            paint(base / "images" / f"{name}.jpg", first + 10 * number)


def make_pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    rows = {
        "trainval": [("Abyssinian_1", 1, 10), ("beagle_1", 2, 20), ("great_pyrenees_7", 3, 30)],
        "test": [("Abyssinian_2", 1, 110), ("great_pyrenees_9", 3, 130), ("beagle_3", 2, 120)],
    }
    for split, listed in rows.items():
        put(base / "annotations" / f"{split}.txt", "".join(f"{n} {y} 1 1\n" for n, y, _ in listed))
        for name, _, value in listed:
            paint(base / "images" / f"{name}.jpg", value)


def make_flowers(root: Path) -> None:
    from scipy.io import savemat

    base = root / "flowers-102"
    base.mkdir(parents=True)
    savemat(base / "imagelabels.mat", {"labels": [77, 1, 102, 77, 1, 102, 1, 77]})
    savemat(base / "setid.mat", {"trnid": [1, 2, 3], "valid": [4, 5], "tstid": [6, 7, 8]})
    for number in range(1, 9):
        paint(base / "jpg" / f"image_{number:05d}.jpg", 10 * number)


def make_cars(root: Path) -> None:
    from scipy.io import savemat

    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    kind = [("fname", "O"), ("class", "O")]
    train = np.array([("00001.jpg", 2), ("00002.jpg", 1)], dtype=kind)
    test = np.array([("00001.jpg", 1), ("00002.jpg", 2)], dtype=kind)
    savemat(base / "devkit" / "cars_train_annos.mat", {"annotations": train})
    savemat(base / "cars_test_annos_withlabels.mat", {"annotations": test})
    names = np.array(["AM General Hummer", "Acura RL"], dtype=object)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    for number in (1, 2):
        paint(base / "cars_train" / f"0000{number}.jpg", 10 * number)
        paint(base / "cars_test" / f"0000{number}.jpg", 100 + 10 * number)


def make_eurosat(root: Path) -> None:
    for label, name in enumerate(("River", "AnnualCrop", "Forest")):
        for number in range(4):
            paint(root / "eurosat" / "2750" / name / f"{number}.jpg", 10 + 60 * label + 10 * number)


def make_imagenette(root: Path) -> None:
    for label, wnid in enumerate(("n01440764", "n03888257")):
        for split, first in (("train", 10), ("val", 110)):
            paint(root / "imagenette2-160" / split / wnid / "x.JPEG", first + 20 * label)


def make_gtsrb(root: Path) -> None:
    base = root / "gtsrb"
    for name, value in (("00000", 10), ("00001", 20), ("00002", 30)):
        paint(base / "GTSRB" / "Training" / name / "1.ppm", value)
    lines = ["Filename;Width;Height;ClassId", "a.ppm;16;16;2", "b.ppm;16;16;1"]
    put(base / "GT-final_test.csv", "\n".join(lines) + "\n")
    paint(base / "GTSRB" / "Final_Test" / "Images" / "a.ppm", 110)
    paint(base / "GTSRB" / "Final_Test" / "Images" / "b.ppm", 120)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists made here are not the published ones, whose md5 torchvision compares."""
    flowers = torchvision.datasets.flowers102
    monkeypatch.setattr(flowers, "check_integrity", lambda path, md5=None: Path(path).exists())


def approx(found: dict[int, Any], wanted: dict[int, Any]) -> bool:
    """Equal up to 2 levels of brightness."""
    near = {next((w for w in wanted if abs(v - w) <= 2), v): label for v, label in found.items()}
    return near == wanted


@pytest.mark.parametrize(
    ("name", "make", "train", "test"),
    [
        (
            "Food101",
            make_food,
            {10: "waffles", 20: "waffles", 30: "apple_pie"},
            {110: "waffles", 120: "waffles", 130: "apple_pie"},
        ),
        (
            "OxfordIIITPet",
            make_pets,
            {10: "Abyssinian", 20: "Beagle", 30: "Great Pyrenees"},
            {110: "Abyssinian", 130: "Great Pyrenees", 120: "Beagle"},
        ),
        (
            "Flowers102",
            make_flowers,
            {10: "passion flower", 20: "pink primrose", 30: "blackberry lily"},
            {60: "blackberry lily", 70: "pink primrose", 80: "passion flower"},
        ),
        (
            "StanfordCars",
            make_cars,
            {10: "Acura RL", 20: "AM General Hummer"},
            {110: "AM General Hummer", 120: "Acura RL"},
        ),
        (
            "Imagenette",
            make_imagenette,
            {10: "n01440764", 30: "n03888257"},
            {110: "n01440764", 130: "n03888257"},
        ),
    ],
)
def test_published_layouts_keep_splits_and_names(
    name: str, make: Any, train: dict[int, str], test: dict[int, str], tmp_path: Path
) -> None:
    make(tmp_path)
    data = opened(f"torchvision:{name}", data_dir=tmp_path, validation=0)
    assert data.info.image_size == 16
    assert approx(named(data, "train"), train)
    assert approx(named(data, "test"), test)
    assert data.info == describe(asked(f"torchvision:{name}", data_dir=tmp_path))


def test_flowers_say_which_splits_are_read(tmp_path: Path) -> None:
    make_flowers(tmp_path)
    data = opened("torchvision:Flowers102", data_dir=tmp_path)
    assert data.info.note == "the test set is the split test, the training set train; not read: val"
    assert data.info.num_classes == 102
    both = opened("torchvision:Flowers102:train+val,test", data_dir=tmp_path, validation=0)
    assert len(both.train) == 5


def test_labels_of_traffic_signs_are_the_numbers_of_their_folders(tmp_path: Path) -> None:
    make_gtsrb(tmp_path)
    data = opened("torchvision:GTSRB", data_dir=tmp_path, validation=0)
    assert data.info.class_names == ()
    assert seen(data, "train") == {10: 0, 20: 1, 30: 2}
    assert seen(data, "test") == {110: 2, 120: 1}
    training = tmp_path / "gtsrb" / "GTSRB" / "Training"
    (training / "00001").rename(training / "00010")  # torchvision then numbers 00002 as 1
    with pytest.raises(DataError, match="the folder 00002 would get label 1"):
        opened("torchvision:GTSRB", data_dir=tmp_path)


def test_a_set_without_published_splits_is_divided_only_on_request(tmp_path: Path) -> None:
    make_eurosat(tmp_path)
    with pytest.raises(DataError, match=r"no test set.*") as caught:
        opened("torchvision:EuroSAT", data_dir=tmp_path)
    assert "--source.test-share 0.2" in str(caught.value)
    share = SourceConfig(test_share=0.25)
    data = opened("torchvision:EuroSAT", data_dir=tmp_path, validation=0, source=share)
    assert data.info.class_names == ("AnnualCrop", "Forest", "River")
    assert (len(data.train), len(data.test)) == (9, 3)
    assert sorted(data.test.labels.tolist()) == [0, 1, 2]
    assert not seen(data, "train").keys() & seen(data, "test").keys()


def test_arrays_that_torchvision_holds_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Held:
        classes = ["plane", "bird"]

        def __init__(self, root: str, split: str, download: bool) -> None:
            first = 10 if split == "train" else 110
            values = np.arange(first, first + 4, dtype=np.uint8)[:, None, None, None]
            self.data = np.broadcast_to(values, (4, 3, 20, 20)).copy()
            self.data[:, 2, 0, 0] = 7  # blue, above left
            self.labels = np.array([0, 1, 1, 0])

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return None, int(self.labels[index])

    monkeypatch.setattr(torchvision.datasets, "STL10", Held)
    data = opened("torchvision:STL10", data_dir=tmp_path, validation=0)
    assert named(data, "test") == {110: "plane", 111: "bird", 112: "bird", 113: "plane"}
    pixel = next(data.test.eval_batches(1)).x[0, :, 0, 0] * 255
    assert pixel.tolist() == [110, 110, 7]


def test_what_is_not_there_is_said_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("downloads")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    for name in SETS:
        with pytest.raises(DataError) as caught:
            opened(f"torchvision:{name}", data_dir=tmp_path, source=SourceConfig(test_share=None))
        text = str(caught.value)
        assert "--download" in text or "--source.test-share" in text
        assert text.count("\n") <= 3
    with pytest.raises(UsageError, match="did you mean 'Food101'"):
        opened("torchvision:Food11", data_dir=tmp_path)


def test_half_a_published_set_is_refused(tmp_path: Path) -> None:
    make_food(tmp_path)
    (tmp_path / "food-101" / "images" / "waffles" / "2test.jpg").unlink()
    with pytest.raises(DataError, match="1 of 3 images of Food101 are missing"):
        opened("torchvision:Food101", data_dir=tmp_path)


def test_lists_that_torchvision_renamed_are_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_food(tmp_path)
    get = torchvision.datasets.Food101.__getitem__
    monkeypatch.setattr(
        torchvision.datasets.Food101, "__getitem__", lambda self, i: (None, 1 - get(self, i)[1])
    )
    with pytest.raises(DataError, match="keeps the images of Food101 in an unknown form"):
        opened("torchvision:Food101", data_dir=tmp_path)
