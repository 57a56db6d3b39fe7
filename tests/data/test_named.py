"""Named sets: digits, and the four that come from a file or through torchvision."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from abatis.data import describe, named
from abatis.data.arrays import statistics
from abatis.errors import DataError, UsageError
from tests.data.common import opened, random_arrays, reference


def test_digits_are_split_by_class_and_always_alike() -> None:
    data = opened("digits", augment="none")
    assert data.val is not None
    assert (len(data.train) + len(data.val), len(data.val), len(data.test)) == (1437, 143, 360)
    counts = np.bincount(load_digits(return_X_y=True)[1])
    assert torch.bincount(data.test.labels).tolist() == pytest.approx(counts / 5, abs=1)
    torch.manual_seed(5)
    again = opened("digits")
    assert torch.equal(again.test.labels, data.test.labels)
    assert torch.equal(next(again.test.eval_batches(360)).x, next(data.test.eval_batches(360)).x)
    assert torch.equal(again.train.index, data.train.index)


def test_training_and_test_digits_together_are_all_digits() -> None:
    arrays = named.read_named("digits", Path("nowhere"))
    values, labels = load_digits(return_X_y=True)
    expected = np.round(values * 255 / 16).astype(np.uint8)
    pairs = sorted(zip(map(bytes, expected), labels.tolist(), strict=True))
    images = torch.cat([arrays.x_train, arrays.x_test]).flatten(1).numpy()
    assert sorted(zip(map(bytes, images), torch.cat([arrays.y_train, arrays.y_test]).tolist(), strict=True)) == pairs
    assert int(arrays.x_train.max()) == 255


def test_the_facts_of_digits_are_those_of_the_images() -> None:
    info = opened("digits").info
    assert (info.num_classes, info.channels, info.image_size, info.augment) == (10, 1, 8, "none")
    mean, std = statistics(named.read_named("digits", Path("nowhere")).x_train)
    assert info.mean == pytest.approx(mean, abs=6e-5)
    assert info.std == pytest.approx(std, abs=6e-5)
    assert "no benchmark" in info.note


@pytest.mark.parametrize(
    ("name", "classes", "channels", "size", "augment"),
    [
        ("digits", 10, 1, 8, "none"),
        ("cifar10", 10, 3, 32, "crop-flip"),
        ("cifar100", 100, 3, 32, "crop-flip"),
        ("svhn", 10, 3, 32, "crop"),
        ("mnist", 10, 1, 28, "none"),
    ],
)
def test_named_sets_are_described_without_a_file(name: str, classes: int, channels: int, size: int, augment: str) -> None:
    info = describe(name, data_dir=Path("nowhere"), image_size=None, augment="auto")
    assert (info.name, info.num_classes, info.channels, info.image_size, info.augment) == (
        name,
        classes,
        channels,
        size,
        augment,
    )
    assert len(info.mean) == len(info.std) == channels
    assert describe(name, data_dir=Path("nowhere"), image_size=size, augment="crop").augment == "crop"
    with pytest.raises(UsageError, match="image size 64"):
        describe(name, data_dir=Path("nowhere"), image_size=64, augment="auto")


def test_a_file_in_the_data_folder_comes_first(tmp_path: Path) -> None:
    arrays = random_arrays(size=32)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    data = opened("cifar10", data_dir=tmp_path, limit=20)
    assert data.info == describe("cifar10", data_dir=tmp_path, image_size=None, augment="auto")
    assert data.info.num_classes == 10  # the name says so, though the file has labels up to 3 only
    assert (len(data.train), len(data.test)) == (18, 6)
    np.testing.assert_array_equal(
        next(data.test.eval_batches(1)).x.numpy()[0], arrays["x_test"][0].transpose(2, 0, 1) / np.float32(255)
    )


@pytest.mark.parametrize("wrong", [{"size": 16}, {"size": 32, "channels": 1}])
def test_a_file_with_other_images_under_a_known_name_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    np.savez(tmp_path / "cifar10.npz", **random_arrays(**wrong))
    with pytest.raises(DataError, match="not the images of cifar10") as caught:
        opened("cifar10", data_dir=tmp_path)
    assert f"npz:{tmp_path / 'cifar10.npz'}" in str(caught.value)


def test_mnist_from_its_file() -> None:
    path = reference("mnist.npz")
    data = opened("mnist", data_dir=path.parent, limit=600)
    (batch,) = data.test.eval_batches(300)
    with np.load(path) as file:
        np.testing.assert_array_equal(batch.x.numpy(), file["x_test"][:100].transpose(0, 3, 1, 2) / np.float32(255))
        x_train = file["x_train"]
    assert batch.x.shape == (100, 1, 28, 28)
    mean, std = statistics(torch.from_numpy(x_train).permute(0, 3, 1, 2))
    assert data.info.mean == pytest.approx(mean, abs=6e-5)
    assert data.info.std == pytest.approx(std, abs=6e-5)


class FakeDataset:
    """Stands in for torchvision's classes: without the files a download is tried, and that fails noisily."""

    timeouts: list[float | None] = []  # the time limit in force at each download
    error: Exception = OSError("<urlopen error\n[Errno -2] Name or service not known>")

    def __init__(self, root: Path, download: bool = False, **options: Any) -> None:
        if not download:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        self.timeouts.append(socket.getdefaulttimeout())
        print("0%|          | 0/170498071")
        print("Failed download.", file=sys.stderr)
        raise self.error


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("CIFAR10", "CIFAR100", "SVHN", "MNIST")
    datasets = SimpleNamespace(**dict.fromkeys(names, FakeDataset))
    monkeypatch.setattr(named, "torchvision", lambda: SimpleNamespace(datasets=datasets))
    monkeypatch.setattr(FakeDataset, "timeouts", [])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "mnist"])
@pytest.mark.usefixtures("no_network")
def test_without_a_network_the_error_names_the_folder_and_the_way_out(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError) as caught:
        opened(name, data_dir=tmp_path)
    text = str(caught.value)
    for word in (str(tmp_path), f"{name}.npz", "--data digits", "Name or service not known"):
        assert word in text
    assert text.count("\n") == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_network")
def test_a_dead_network_is_given_up_soon_and_the_timeout_is_put_back(tmp_path: Path) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77)
    try:
        with pytest.raises(DataError):
            opened("cifar10", data_dir=tmp_path)
        assert socket.getdefaulttimeout() == 77
    finally:
        socket.setdefaulttimeout(before)
    assert FakeDataset.timeouts == [named.SILENCE]
    assert named.SILENCE <= 10


@pytest.mark.usefixtures("no_network")
def test_a_bad_checksum_reads_like_a_missing_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDataset, "error", RuntimeError("File not found or corrupted."))
    with pytest.raises(DataError, match=r"RuntimeError: File not found or corrupted") as caught:
        opened("svhn", data_dir=tmp_path)
    assert "--data digits" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "labels"),
    [
        ("cifar10", np.zeros((12, 32, 32, 3), np.uint8), "targets"),
        ("svhn", np.zeros((12, 3, 32, 32), np.uint8), "labels"),
        ("mnist", torch.zeros(12, 28, 28, dtype=torch.uint8), "targets"),
    ],
)
def test_files_that_are_there_are_read_without_a_download(
    name: str, data: Any, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel = (3, 5, 7) if name == "cifar10" else (3, ..., 5, 7)
    data[pixel] = 255

    def dataset(root: Path, download: bool = False, **options: Any) -> SimpleNamespace:
        assert not download
        assert options in ({"train": True}, {"train": False}, {"split": "train"}, {"split": "test"})
        return SimpleNamespace(**{"data": data, labels: list(range(12))})

    fake = SimpleNamespace(datasets=SimpleNamespace(**{name.upper(): dataset}))
    monkeypatch.setattr(named, "torchvision", lambda: fake)
    test = opened(name, data_dir=tmp_path).test
    (batch,) = test.eval_batches(12)
    assert test.labels.tolist() == list(range(12))
    assert batch.x.nonzero()[:, [0, 2, 3]].unique(dim=0).tolist() == [[3, 5, 7]]
    assert batch.x[3, :, 5, 7].tolist() == [1.0] * batch.x.shape[1]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cifar-10", ["did you mean 'cifar10'?"]),
        ("digit", ["did you mean 'digits'?"]),
        ("imagenet21k", ["folder:PATH"]),
        ("npz:", ["npz:PATH"]),
        ("digits:8", ["folder:PATH"]),
        ("some/images.npz", ["write npz:some/images.npz"]),
    ],
)
def test_an_unknown_set_is_answered_with_the_nearest(spec: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        describe(spec, data_dir=Path("nowhere"), image_size=None, augment="auto")
    for word in words:
        assert word in str(caught.value)


def test_a_folder_without_its_prefix_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="write folder:"):
        describe(str(tmp_path), data_dir=Path("nowhere"), image_size=None, augment="auto")
