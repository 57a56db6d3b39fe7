"""Data that a program hands over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from abatis.data import Data, DataRequest, from_user
from abatis.data.user import TRIED
from abatis.errors import DataError, UsageError
from tests.data.common import random_arrays


def given(train: Any, test: Any, **options: Any) -> Data:
    return from_user((train, test), DataRequest("python:tuple", **options))


def pairs(kind: str) -> tuple[Any, Any]:
    """The same 40 + 12 images in one of the forms that are taken."""
    arrays = random_arrays()
    out = []
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        first = x.transpose(0, 3, 1, 2)
        scaled = first / np.float32(255)
        forms: dict[str, Any] = {
            "uint8 NHWC array": (x, y),
            "uint8 NCHW array": (first, y.astype(np.uint8)),
            "float array": (scaled, y),
            "double tensor": (torch.from_numpy(first / 255.0), torch.from_numpy(y)),
            "uint8 tensor": (torch.from_numpy(x), torch.from_numpy(y)),
            "Dataset": TensorDataset(torch.from_numpy(scaled), torch.from_numpy(y)),
        }
        out.append(forms[kind])
    return out[0], out[1]


FORMS = [
    "uint8 NHWC array",
    "uint8 NCHW array",
    "float array",
    "double tensor",
    "uint8 tensor",
    "Dataset",
]


@pytest.mark.parametrize("kind", FORMS)
def test_every_form_gives_the_same_images_and_facts(kind: str) -> None:
    arrays = random_arrays()
    data = given(*pairs(kind))
    scaled = arrays["x_train"] / 255
    assert (data.info.num_classes, data.info.channels, data.info.image_size) == (4, 3, 16)
    assert data.info.mean == pytest.approx(scaled.mean((0, 1, 2)), abs=1e-6)
    assert data.info.std == pytest.approx(scaled.std((0, 1, 2)), abs=1e-6)
    assert data.info.augment == ("none" if kind == "Dataset" else "crop-flip")
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (36, 4, 12)
    (batch,) = data.val.eval_batches(10)
    rows = data.val.index.numpy()
    expected = arrays["x_train"][rows].transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_array_equal(batch.x.numpy(), expected)
    assert batch.x.dtype == torch.float32
    assert batch.y.tolist() == arrays["y_train"][rows].tolist()
    assert batch.index.tolist() == rows.tolist()


def test_float_and_uint8_arrays_are_augmented_alike_and_datasets_not_at_all() -> None:
    seen = {}
    for kind in ("uint8 NHWC array", "float array", "Dataset"):
        data = given(*pairs(kind))
        (batch,) = data.train.train_batches([(4, torch.arange(10))], seed=2)
        seen[kind] = batch.x
        plain = next(data.train.eval_batches(10)).x
        assert torch.equal(batch.x, plain) == (kind == "Dataset")
    assert torch.equal(seen["uint8 NHWC array"], seen["float array"])


@pytest.mark.parametrize("kind", ["uint8 NHWC array", "Dataset"])
def test_limit_leaves_images_of_all_classes(kind: str) -> None:
    data = given(*pairs(kind), limit=5)
    assert (data.train.index.tolist(), data.val, len(data.test)) == (list(range(5)), None, 2)
    for split, (x, y) in zip((data.train, data.test), pairs("uint8 NHWC array"), strict=True):
        whole = torch.from_numpy(x).permute(0, 3, 1, 2) / 255
        for batch in split.eval_batches(1):  # every image keeps its label
            place = [torch.allclose(batch.x[0], image) for image in whole].index(True)
            assert int(batch.y) == int(y[place])
    assert len(given(*pairs(kind), limit=1000).test) == 12


def test_grey_images_without_a_channel_axis() -> None:
    x, y = np.zeros((20, 6, 6), np.uint8), np.arange(20) % 2
    info = given((x, y), (x, y)).info
    assert (info.channels, info.image_size, info.augment, info.std) == (1, 6, "none", (1.0,))


def test_a_read_only_array_is_taken_and_left_as_it_was(recwarn: pytest.WarningsRecorder) -> None:
    (x, y), test = pairs("uint8 NHWC array")
    before = x.copy()
    x.flags.writeable = False
    data = given((x, y), test)
    list(data.train.train_batches([(0, torch.arange(36))], 0))
    np.testing.assert_array_equal(x, before)
    assert not recwarn.list


Y = np.arange(6) % 2


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (
            np.full((6, 3, 8, 8), -1.5),
            Y,
            ["outside [0, 1]: -1.5", "if they are normalised"],
        ),
        (np.full((6, 3, 8, 8), 200.0), Y, ["outside [0, 1]", "uint8"]),
        (np.full((6, 3, 8, 8), np.nan), Y, ["outside [0, 1]: nan"]),
        (np.zeros((6, 8, 8, 3), np.float32), Y, ["(6, 8, 8, 3)", "float (N, C, H, W)"]),
        (np.zeros((6, 8, 8, 3), np.int64), Y, ["int64", "uint8"]),
        (np.zeros((6, 8, 9, 3), np.uint8), Y, ["(6, 8, 9, 3)", "square"]),
        (np.array(["a"] * 6), Y, ["(6,)", "uint8"]),
        (np.zeros((6, 8, 8, 3), np.uint8), Y - 1, ["negative label -1"]),
        (np.zeros((6, 8, 8, 3), np.uint8), Y[:5], ["5 labels for 6 images"]),
        (np.zeros((6, 8, 8, 3), np.uint8), torch.eye(6), ["integers"]),
        (np.zeros((0, 8, 8, 3), np.uint8), Y[:0], ["empty"]),
        (torch.zeros(0, 3, 8, 8), Y[:0], ["empty"]),
    ],
)
def test_wrong_arrays_are_refused_at_once(x: Any, y: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        given((x, y), (x, y))
    for word in words:
        assert word in str(caught.value)


def test_training_and_test_images_must_be_alike() -> None:
    (x, y), _ = pairs("uint8 NHWC array")
    with pytest.raises(
        DataError, match=r"training images are uint8 \(3, 16, 16\), test images uint8 \(3, 8, 8\)"
    ):
        given((x, y), (x[:, :8, :8], y))


class Samples(Dataset[Any]):
    """Six samples, the fourth of which is what the test says."""

    def __init__(self, odd: Any = None) -> None:
        self.odd = odd

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return (
            self.odd
            if index == 4 and self.odd is not None
            else (torch.full((3, 8, 8), index / 10), index % 3)
        )


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ((torch.full((3, 8, 8), 2.0), 0), ["outside [0, 1]: 2 to 2"]),
        (
            (torch.full((3, 8, 8), -2.0), 0),
            ["outside [0, 1]: -2 to -2", "if they are normalised, leave normalisation"],
        ),
        ((torch.zeros(3, 8, 8, dtype=torch.uint8), 0), ["torch.uint8", "float tensor"]),
        ((np.zeros((3, 8, 8)), 0), ["ndarray", "float tensor"]),
        ((torch.zeros(8, 8), 0), ["(8, 8)"]),
        ((torch.zeros(3, 8, 8), -1), ["label is -1"]),
        ((torch.zeros(3, 8, 8), 0.5), ["label is 0.5"]),
        ({"image": 1}, ["dict", "(image, label)"]),
    ],
)
def test_a_wrong_sample_is_named_by_its_position(odd: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        given(Samples(), Samples(odd))
    for word in [*words, "test, sample 4"]:
        assert word in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_several_sizes_are_refused_when_they_come(workers: int) -> None:
    data = given(Samples(), Samples((torch.zeros(3, 9, 9), 0)), workers=workers)
    with pytest.raises(
        DataError, match=r"shape \(3, 9, 9\); the first one is \(3, 8, 8\)"
    ) as caught:
        list(data.test.eval_batches(3))
    assert "Traceback" not in str(caught.value)


class Tagged(Samples):
    """With ``.targets``, so that labels are known without a pass; counts what is read."""

    def __init__(self, targets: Any) -> None:
        super().__init__()
        self.targets = targets
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return torch.full((3, 8, 8), index / 1000), index % 3


def test_targets_save_the_pass_over_the_images() -> None:
    test = Tagged([0, 1, 2] * 100)
    data = given(Samples(), test)
    assert len(test.read) == TRIED  # a few are looked at before a run
    assert data.test.labels.tolist() == [0, 1, 2] * 100


def test_targets_that_disagree_with_the_samples_are_noticed() -> None:
    data = given(Samples(), Tagged(torch.tensor([0, 1, 2, 0, 7, 2])))
    assert data.info.num_classes == 8
    with pytest.raises(DataError, match="the label is 1 now and was 7 before"):
        list(data.test.eval_batches(3))


class Noisy(Samples):
    """Draws its own augmentation from the global generators."""

    def __getitem__(self, index: int) -> Any:
        return torch.rand(3, 8, 8) * float(np.random.rand()), index % 3


def noise(workers: int, seed: int = 0) -> list[Tensor]:
    batches = [(0, torch.tensor([0, 1])), (1, torch.tensor([1, 2]))]
    return [
        batch.x
        for batch in given(Noisy(), Noisy(), workers=workers).train.train_batches(batches, seed)
    ]


def test_a_dataset_that_draws_is_repeatable_whatever_the_workers_and_the_global_state() -> None:
    torch.manual_seed(1)
    first = noise(0)
    torch.manual_seed(2)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    for again in (noise(0), noise(1)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # type: ignore[index]
    assert not torch.equal(first[0], noise(0, seed=1)[0])
    assert not torch.equal(first[0][1], first[1][0])  # the same image at another step


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    "data",
    [None, 3, (1, 2, 3), (Endless(), Endless()), (Samples(), pairs("float array")[1]), (1, 2)],
)
def test_other_things_are_answered_with_the_form(data: Any) -> None:
    with pytest.raises(UsageError, match=r"data|which cannot be indexed") as caught:
        from_user(data, DataRequest("python:tuple"))
    assert "(train, test)" in str(caught.value)


def test_a_dataset_is_not_augmented_on_request() -> None:
    assert given(*pairs("float array"), augment="none").info.augment == "none"
    assert given(*pairs("Dataset"), augment="none").info.augment == "none"
    with pytest.raises(UsageError, match="augments its own images"):
        given(*pairs("Dataset"), augment="crop")


class Failing(Samples):
    def __getitem__(self, index: int) -> Any:
        if index == 4:
            raise OSError("no such picture")
        return super().__getitem__(index)


def test_a_dataset_that_raises_is_named_with_the_sample_and_the_line() -> None:
    with pytest.raises(
        DataError, match="fails on test, sample 4: OSError: no such picture"
    ) as caught:
        given(Samples(), Failing())
    assert __file__ in str(caught.value.where)


def test_the_type_of_wrong_labels_is_the_one_that_was_given() -> None:
    with pytest.raises(DataError, match="y of train is float32"):
        given((torch.zeros(4, 3, 8, 8), torch.zeros(4)), (torch.zeros(4, 3, 8, 8), torch.zeros(4)))
