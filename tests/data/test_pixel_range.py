"""Values outside [0, 1]: rounding is clamped and noted, anything else refused and told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import abatis
from abatis.data import Data, DataRequest, from_user
from abatis.errors import DataError

Y = torch.arange(12) % 3
NOISE = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
STD = torch.tensor([0.2471, 0.2435, 0.2616]).view(3, 1, 1)


def given(x: Any, test: Any = None) -> Data:
    request = DataRequest("python:tuple", validation=0)
    return from_user(((x, Y), (1 - NOISE if test is None else test, Y)), request)


def with_pixel(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    x = NOISE.clone().to(dtype)
    x[5, 1, 2, 3] = value
    return x


@pytest.mark.parametrize(
    ("x", "note"),
    [
        (with_pixel(1 + 2**-23), "pixels up to 1.2e-07 outside [0, 1]"),
        (with_pixel(-3e-7), "pixels up to 3e-07 outside"),
        (with_pixel(1.0078125, torch.bfloat16), "pixels up to 0.0078 outside"),
        (with_pixel(1.0009765625, torch.float16).numpy(), "pixels up to 0.00098 outside"),
        (with_pixel(1.0), ""),
    ],
)
def test_a_rounding_error_is_clamped_and_noted(x: Any, note: str) -> None:
    data = given(x, (1 - NOISE).to(x.dtype) if isinstance(x, Tensor) else None)
    assert data.info.note.startswith(note)
    assert bool(data.info.note) == bool(note)
    images = torch.cat([batch.x for batch in data.train.eval_batches(20)])
    assert 0 <= images.min() <= images.max() <= 1
    if note:
        assert images[5, 1, 2, 3].item() == round(float(x[5, 1, 2, 3]))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (with_pixel(1.0001), ["to 1.0001"]),
        (with_pixel(-0.001), ["-0.001 to"]),
        (NOISE * 255, ["they look like 0 to 255", "divide by 255"]),
        (NOISE * 2 - 1, ["they look like -1 to 1", "(x + 1) / 2"]),
        ((NOISE - MEAN) / STD, ["look already normalised", "leave normalisation to the model"]),
        (with_pixel(float("nan")), ["not all pixels are finite"]),
        (with_pixel(float("inf")), ["not all pixels are finite"]),
        (with_pixel(1.5), ["to 1.5", "give pixels in [0, 1]"]),
        (NOISE * 60000, ["give pixels in [0, 1]"]),
    ],
)
def test_what_is_beyond_is_refused_with_its_number_and_told_apart(
    x: Tensor, words: list[str]
) -> None:
    for pair in ((x, None), (NOISE, x)):
        with pytest.raises(DataError) as caught:
            given(*pair)
        text = str(caught.value)
        for word in ["outside [0, 1]", *words]:
            assert word in text
        assert ("look" in text) == any("look" in word for word in words)


class Overshooting(Dataset[Any]):
    """An augmentation that leaves [0, 1] by a rounding error after some calls."""

    def __init__(self, after: int, value: float) -> None:
        self.after, self.value = after, value
        self.calls = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.calls += 1
        x = NOISE[index].clone()
        if self.calls > self.after:
            x[0, 0, 0] = self.value
        return x, int(Y[index])


def test_rounding_in_a_later_epoch_is_clamped_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = Overshooting(60, 1.0000001)
    config = abatis.RunConfig(
        epochs=6, eval="none", out=tmp_path, name="x", attack={"steps": 1}, batch_size=4
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    abatis.run(config, model=net, data=(train, Overshooting(10**6, 0.5)))
    assert train.calls > 61
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("a rounding error, are clamped to it") == 1


def test_test_images_out_of_range_are_found_before_the_run() -> None:
    class Tagged(Overshooting):
        targets = Y.tolist()

    with pytest.raises(DataError, match=r"outside \[0, 1\]: .* to 255"):
        from_user((Tagged(99, 0.0), Tagged(0, 255.0)), DataRequest("python:tuple"))


def test_datasets_that_number_classes_differently_are_refused() -> None:
    train, test = Overshooting(99, 0.0), Overshooting(99, 0.0)
    train.classes, test.classes = ["a", "b", "c"], ["a", "b", "c"]  # type: ignore[attr-defined]
    assert from_user((train, test), DataRequest("python:tuple")).info.class_names == ("a", "b", "c")
    test.classes = ["a", "c"]  # type: ignore[attr-defined]  # an ImageFolder without b
    with pytest.raises(DataError, match="number classes differently"):
        from_user((train, test), DataRequest("python:tuple"))


def test_copies_of_training_images_in_the_test_set_are_noted() -> None:
    test = NOISE.flip(0).clone()
    test[2:] += 0
    test[2:, 0, 0, 0] = 0.123
    note = given(NOISE, test).info.note
    assert note == "2 of 12 test images are copies of training images: image 0, image 1"
    assert np.allclose(test[0], NOISE[11])
