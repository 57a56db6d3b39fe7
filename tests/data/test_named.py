"""Named sets: digits, and the four that come from files."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sklearn.datasets import load_digits

from abatis.data import describe
from abatis.data.sources import cifar, mnist, published, svhn
from abatis.data.sources.digits import read_digits
from abatis.data.sources.named import NamedSource
from abatis.data.statistics import measure_statistics
from abatis.errors import DataError, UsageError
from tests.data.common import asked, opened, random_arrays, reference


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
    arrays = read_digits()
    values, labels = load_digits(return_X_y=True)
    expected = np.round(values * 255 / 16).astype(np.uint8)
    pairs = sorted(zip(map(bytes, expected), labels.tolist(), strict=True))
    images = torch.cat([arrays.x_train, arrays.x_test]).flatten(1).numpy()
    assert (
        sorted(
            zip(
                map(bytes, images), torch.cat([arrays.y_train, arrays.y_test]).tolist(), strict=True
            )
        )
        == pairs
    )
    assert int(arrays.x_train.max()) == 255


def test_the_facts_of_digits_are_those_of_the_images() -> None:
    info = opened("digits").info
    assert (info.num_classes, info.channels, info.image_size, info.augment) == (10, 1, 8, "none")
    mean, std = measure_statistics(read_digits().x_train)
    assert info.mean == pytest.approx(mean, abs=6e-5)
    assert info.std == pytest.approx(std, abs=6e-5)
    assert "not a benchmark" in info.note


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
def test_named_sets_are_described_without_a_file(
    name: str, classes: int, channels: int, size: int, augment: str
) -> None:
    info = describe(asked(name))
    assert (info.name, info.num_classes, info.channels, info.image_size, info.augment) == (
        name,
        classes,
        channels,
        size,
        augment,
    )
    assert len(info.mean) == len(info.std) == channels
    assert describe(asked(name, image_size=size, augment="crop")).augment == "crop"
    with pytest.raises(UsageError, match="image size 64"):
        describe(asked(name, image_size=64))


def test_a_file_in_the_data_folder_comes_first(tmp_path: Path) -> None:
    arrays = random_arrays(size=32)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    data = opened("cifar10", data_dir=tmp_path, limit=20)
    assert data.info == describe(asked("cifar10"))
    assert data.info.num_classes == 10  # the name says so, though the file has labels up to 3 only
    assert (len(data.train), len(data.test)) == (18, 6)
    np.testing.assert_array_equal(
        next(data.test.eval_batches(1)).x.numpy()[0],
        arrays["x_test"][data.test.index[0]].transpose(2, 0, 1) / np.float32(255),
    )


@pytest.mark.parametrize("wrong", [{"size": 16}, {"size": 32, "channels": 1}])
def test_a_file_with_other_images_under_a_known_name_is_refused(
    tmp_path: Path, wrong: dict[str, int]
) -> None:
    np.savez(tmp_path / "cifar10.npz", **random_arrays(**wrong))
    with pytest.raises(DataError, match="not the images of cifar10") as caught:
        opened("cifar10", data_dir=tmp_path)
    assert f"npz:{tmp_path / 'cifar10.npz'}" in str(caught.value)


def test_mnist_from_its_file() -> None:
    path = reference("mnist.npz")
    data = opened("mnist", data_dir=path.parent, limit=600)
    (batch,) = data.test.eval_batches(300)
    with np.load(path) as file:
        np.testing.assert_array_equal(
            batch.x.numpy(),
            file["x_test"][data.test.index.numpy()].transpose(0, 3, 1, 2) / np.float32(255),
        )
        x_train = file["x_train"]
    assert batch.x.shape == (100, 1, 28, 28)
    mean, std = measure_statistics(torch.from_numpy(x_train).permute(0, 3, 1, 2))
    assert data.info.mean == pytest.approx(mean, abs=6e-5)
    assert data.info.std == pytest.approx(std, abs=6e-5)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "mnist"])
def test_without_a_network_the_error_names_the_folder_and_the_way_out(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = []

    def no_network(url: str, timeout: float) -> None:
        timeouts.append(timeout)
        raise OSError("<urlopen error\n[Errno -2] Name or service not known>")

    monkeypatch.setattr(published.urllib.request, "urlopen", no_network)
    with pytest.raises(DataError) as caught:
        opened(name, data_dir=tmp_path)
    text = str(caught.value)
    for word in (str(tmp_path), f"{name}.npz", "--data digits", "Name or service not known"):
        assert word in text
    assert text.count("\n") == 2
    assert capfd.readouterr() == ("", "")
    assert timeouts == [published.TIMEOUT]
    assert published.TIMEOUT <= 10


def pixels(count: int, channels: int = 3) -> np.ndarray[Any, Any]:
    """(count, channels, 32, 32) uint8."""
    return np.random.default_rng(count).integers(0, 256, (count, channels, 32, 32), dtype=np.uint8)


def tar(**tables: dict[str, Any]) -> bytes:
    """A compressed archive of pickles in a folder, as CIFAR is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, table in tables.items():
            content = pickle.dumps(table, protocol=2)
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def cifar_archive(labels: str, **sets: tuple[np.ndarray[Any, Any], list[int]]) -> tuple[bytes]:
    tables = {name: {"data": x.reshape(len(x), -1), labels: y} for name, (x, y) in sets.items()}
    return (tar(**tables, meta={"label_names": ["cat"]}),)


def svhn_files(*sets: tuple[np.ndarray[Any, Any], list[int]]) -> list[bytes]:
    buffers = [io.BytesIO() for _ in sets]
    for buffer, (x, y) in zip(buffers, sets, strict=True):
        savemat(buffer, {"X": x.transpose(2, 3, 1, 0), "y": np.array(y)[:, None]})
    return [buffer.getvalue() for buffer in buffers]


def idx(values: np.ndarray[Any, Any]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(
        size.to_bytes(4, "big") for size in values.shape
    )
    return gzip.compress(header + values.astype(np.uint8).tobytes())


def with_files(source: NamedSource, data_dir: Path, contents: Iterable[bytes]) -> NamedSource:
    """The source with files that lie in the data folder, their sha256 being the published one."""
    files = []
    for file, content in zip(source.files, contents, strict=True):
        (data_dir / file.path).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / file.path).write_bytes(content)
        files.append(
            replace(file, sha256=hashlib.sha256(content).hexdigest(), url="http://nowhere.invalid/")
        )
    return replace(source, files=tuple(files))


def check(
    source: NamedSource, data_dir: Path, train: tuple[Any, Any], test: tuple[Any, Any]
) -> None:
    arrays = source.read(data_dir)
    for (x, y), (images, labels) in zip(
        (train, test),
        ((arrays.x_train, arrays.y_train), (arrays.x_test, arrays.y_test)),
        strict=True,
    ):
        np.testing.assert_array_equal(images.numpy(), x)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert labels.tolist() == list(y)


def test_cifar10_is_read_from_its_archive(tmp_path: Path) -> None:
    batches = {
        f"data_batch_{number}": (pixels(number), list(range(number))) for number in (2, 1, 3)
    }
    test = (pixels(4), [9, 8, 7, 6])
    contents = cifar_archive("labels", **batches, test_batch=test)
    together = np.concatenate([pixels(1), pixels(2), pixels(3)])
    source = with_files(cifar.CIFAR10, tmp_path, contents)
    check(source, tmp_path, (together, [0, 0, 1, 0, 1, 2]), test)


def test_cifar100_is_read_with_its_fine_labels(tmp_path: Path) -> None:
    train, test = (pixels(3), [99, 0, 5]), (pixels(2), [1, 2])
    contents = cifar_archive("fine_labels", train=train, test=test)
    check(with_files(cifar.CIFAR100, tmp_path, contents), tmp_path, train, test)


def test_svhn_counts_its_zeros_from_10(tmp_path: Path) -> None:
    contents = svhn_files((pixels(3), [10, 1, 9]), (pixels(2), [2, 10]))
    source = with_files(svhn.SVHN, tmp_path, contents)
    check(source, tmp_path, (pixels(3), [0, 1, 9]), (pixels(2), [2, 0]))


def test_mnist_is_read_from_its_four_files(tmp_path: Path) -> None:
    train, test = (pixels(3, 1), [5, 0, 4]), (pixels(2, 1), [7, 2])
    contents = [idx(part) for x, y in (train, test) for part in (x[:, 0], np.array(y))]
    check(with_files(mnist.MNIST, tmp_path, contents), tmp_path, train, test)


@pytest.mark.parametrize("source", [cifar.CIFAR10, cifar.CIFAR100, svhn.SVHN, mnist.MNIST])
def test_other_bytes_than_the_published_ones_are_not_opened(
    source: NamedSource, tmp_path: Path
) -> None:
    source = replace(source, parse=lambda *contents: pytest.fail("opened"))
    for file in source.files:
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_bytes(b"something else")
    with pytest.raises(DataError, match="not the published") as caught:
        source.open(asked(source.info.name, data_dir=tmp_path))
    assert str(tmp_path / source.files[0].path) in str(caught.value)


def test_a_download_is_believed_and_kept_only_if_it_is_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([b"other", b"right"])
    monkeypatch.setattr(
        published.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(next(answers))
    )
    file = published.PublishedFile(
        "sub/file", hashlib.sha256(b"right").hexdigest(), "http://nowhere.invalid/file"
    )
    with pytest.raises(DataError, match="not the published file") as caught:
        file.read(tmp_path)
    assert "http://nowhere.invalid/file" in str(caught.value)
    assert not (tmp_path / file.path).exists()
    assert file.read(tmp_path) == b"right"
    assert (tmp_path / file.path).read_bytes() == b"right"


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
        describe(asked(spec))
    for word in words:
        assert word in str(caught.value)


def test_a_folder_without_its_prefix_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="write folder:"):
        describe(asked(str(tmp_path)))
