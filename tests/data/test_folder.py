"""folder:PATH, on tiny folders made here and on real photographs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from abatis.commands.eval.judge_model import open_images
from abatis.commands.eval.options import make_parser
from abatis.config.run_config import RunConfig
from abatis.data import stream
from abatis.data.stream import StreamSplit
from abatis.errors import DataError
from abatis.runs.model_spec import Kind, ModelSpec
from abatis.runs.open_data import open_run_data
from tests.data.common import CPU, opened, reference
from tests.data.folders import error, facts, pets, pixels, write


@pytest.mark.parametrize("test", ["val", "test"])
def test_small_images_are_read_as_they_are_and_classes_take_turns(
    tmp_path: Path, test: str
) -> None:
    root = pets(tmp_path, test=test)
    data = opened(f"folder:{root}")
    assert (data.info.num_classes, data.info.channels, data.info.image_size) == (2, 3, 12)
    assert data.info.augment == "crop-flip"
    assert data.info == facts(root)
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 0]
    batches = list(data.train.eval_batches(4))
    assert [len(batch) for batch in batches] == [4, 2]
    seen = torch.cat([batch.x for batch in batches]).numpy()
    names = ["cat/0", "dog/0", "cat/1", "dog/1", "cat/2", "cat/3"]
    for image, name in zip(seen, names, strict=True):
        np.testing.assert_array_equal(image, pixels(root / "train" / f"{name}.png"))
    assert torch.cat([batch.y for batch in batches]).tolist() == data.train.labels.tolist()
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(6))


def test_the_size_is_224_unless_given_or_common_small_and_square(tmp_path: Path) -> None:
    root = pets(tmp_path / "small")
    assert facts(root, image_size=32).image_size == 32
    write(root / "train" / "dog" / "0.png", (12, 14))
    assert facts(root).image_size == 224
    assert facts(pets(tmp_path / "large", size=(65, 65))).image_size == 224
    assert facts(pets(tmp_path / "limit", size=(64, 64))).image_size == 64


def test_large_images_are_cut_from_the_middle_of_a_larger_copy(tmp_path: Path) -> None:
    root = pets(tmp_path, size=(140, 96))
    batch = next(opened(f"folder:{root}", image_size=84).test.eval_batches(1))
    assert batch.x.shape == (1, 3, 84, 84)
    whole = pixels(
        root / "val" / "cat" / "9.png"
    )  # its shorter side is 84 * 256 / 224 = 96 already: nothing is resized
    np.testing.assert_array_equal(batch.x[0].numpy(), whole[:, 6:90, 28:112])


def train_x(
    root: Path, batches: list[tuple[int, list[int]]], *, seed: int = 0, **options: Any
) -> list[Tensor]:
    split = opened(f"folder:{root}", **options).train
    return [
        batch.x
        for batch in split.train_batches(
            [(step, torch.tensor(rows)) for step, rows in batches], seed
        )
    ]


def test_an_augmented_image_is_a_function_of_seed_index_and_step_alone(tmp_path: Path) -> None:
    root = pets(tmp_path)
    state = torch.get_rng_state()
    (first,) = train_x(root, [(3, [0, 1, 2])])
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(8)
    (alone,) = train_x(root, [(3, [2])])  # another batch, another state of the global generator
    assert torch.equal(alone[0], first[2])
    (plain,) = train_x(root, [(3, [0, 1, 2])], augment="none")
    for other in (
        *train_x(root, [(4, [0, 1, 2])]),
        *train_x(root, [(3, [0, 1, 2])], seed=1),
        plain,
    ):
        assert not torch.equal(first, other)
    assert first.dtype == torch.float32
    assert 0 <= first.min() <= first.max() <= 1


def test_flips_come_on_top_of_crops(tmp_path: Path) -> None:
    root = pets(tmp_path)
    steps = [(step, [0]) for step in range(12)]
    crops, flips = train_x(root, steps, augment="crop"), train_x(root, steps, augment="crop-flip")
    mirrored = [not torch.equal(crop, flip) for crop, flip in zip(crops, flips, strict=True)]
    assert 0 < sum(mirrored) < 12
    for crop, flip, mirror in zip(crops, flips, mirrored, strict=True):
        assert torch.equal(crop.flip(3) if mirror else crop, flip)


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    root = pets(tmp_path)
    batches = [(0, [5, 0, 3]), (1, [1, 2, 4])]
    for here, there in zip(train_x(root, batches), train_x(root, batches, workers=1), strict=True):
        assert torch.equal(here, there)


class Processes:
    """Images that tell which process has read them."""

    labels = torch.zeros(6, dtype=torch.int64)

    def image(self, index: int, train: bool) -> Tensor:
        return torch.full((1, 1, 1), os.getpid() / 2**24 + index * 0, dtype=torch.float32)


def test_loader_processes_are_kept_between_epochs() -> None:
    split = StreamSplit(Processes(), CPU, workers=2)

    def read_epoch(epoch: int, seed: int = 0) -> list[float]:
        batches = [(3 * epoch + step, torch.arange(2 * step, 2 * step + 2)) for step in range(3)]
        return [float(x) for batch in split.train_batches(batches, seed) for x in batch.x.flatten()]

    first, second = read_epoch(0), read_epoch(1)
    assert len(first) == len(second) == 6
    assert len(set(first)) == 2
    assert first == second
    assert set(read_epoch(2, seed=1)).isdisjoint(first)
    unfinished = split.train_batches([(9, torch.arange(2)), (10, torch.arange(2))], 0)
    next(unfinished)  # its loader is busy
    (other,) = split.train_batches([(11, torch.arange(2))], 0)
    assert set(other.x.flatten().tolist()).isdisjoint([*first, *next(unfinished).x.flatten()])


@pytest.mark.parametrize(
    ("asked", "images", "cores", "processes", "expected"),
    [
        (None, 1000, 4, "1", 3),
        (None, 1000, 4, "2", 1),
        (None, 1000, 1, "1", 0),
        (None, 1000, 64, "1", 8),
        (None, 999, 64, "1", 0),
        (5, 999, 1, "1", 5),
        (0, 1000, 4, "1", 0),
    ],
)
def test_processes_are_chosen_by_the_cores(
    monkeypatch: pytest.MonkeyPatch,
    asked: int | None,
    images: int,
    cores: int,
    processes: str,
    expected: int,
) -> None:
    monkeypatch.setattr(stream, "count_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert stream.choose_workers(asked, images) == expected


def test_a_folder_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pets(tmp_path)
    walked: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: walked.append(str(folder)) or scan(folder))
    opened(f"folder:{root}")
    classes = [str(root / part / name) for part in ("train", "val") for name in ("cat", "dog")]
    assert [walked.count(name) for name in classes] == [1, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_is_named(tmp_path: Path, workers: int) -> None:
    root = pets(tmp_path)
    file = write(root / "val" / "dog" / "9.png", (60, 60))
    file.write_bytes(file.read_bytes()[:4000])
    data = opened(f"folder:{root}", workers=workers)
    with pytest.raises(DataError, match="cannot be read") as caught:
        list(data.test.eval_batches(2))
    assert str(file) in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert str(caught.value).count("\n") == 2


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    root = pets(tmp_path)
    (root / "train" / "cat" / "3.png").write_text("no image")
    assert "3.png" in error(root)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pets(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # 12x12 is more than twice that
    text = error(root)
    assert "DecompressionBombError" in text
    assert "0.png" in text


@pytest.mark.parametrize("part", ["train", "val"])
def test_the_flat_mistake_is_named_with_the_right_layout(tmp_path: Path, part: str) -> None:
    root = pets(tmp_path)
    for name in ("cat", "dog"):
        for file in (root / part / name).iterdir():
            file.rename(root / part / f"{name}{file.name}")
        (root / part / name).rmdir()
    text = error(root)
    assert f"images lie in {part}/ itself" in text
    assert "train/cat/1.jpg" in text


def test_images_beside_class_folders_are_not_lost_in_silence(tmp_path: Path) -> None:
    root = pets(tmp_path)
    write(root / "train" / "stray.png")
    assert "1 images lie in train/ itself" in error(root)


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_class_folder_is_named(tmp_path: Path, part: str) -> None:
    root = pets(tmp_path)
    for file in (root / part / "dog").iterdir():
        file.rename(file.with_suffix(".txt"))
    text = error(root)
    assert "no image in the class folder 'dog'" in text
    assert str(root / part / "dog") in text


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    root = pets(tmp_path)
    write(root / "val" / "eel" / "1.png")
    text = error(root)
    assert "not in train/: eel" in text
    assert "cat, dog" in text


@pytest.mark.parametrize(
    ("missing", "words"), [("train", "no train/"), ("val", "no val/ (or test/)")]
)
def test_a_missing_part_is_named(tmp_path: Path, missing: str, words: str) -> None:
    root = pets(tmp_path)
    (root / missing).rename(root / "elsewhere")
    assert words in error(root)


def test_a_missing_folder_and_one_without_images_are_named(tmp_path: Path) -> None:
    assert "no such folder" in error(tmp_path / "none")
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    assert "no images in train/" in error(tmp_path)


def test_a_choice_between_val_and_test_is_noted(tmp_path: Path) -> None:
    root = pets(tmp_path)
    assert facts(root).note == ""
    write(root / "test" / "1.png")
    assert "val/ is used as the test set" in facts(root).note


def test_hidden_files_and_folders_are_not_data(tmp_path: Path) -> None:
    root = pets(tmp_path)
    write(root / "train" / ".cache" / "1.png")
    write(root / "train" / "cat" / ".thumbs" / "1.png")
    write(root / "train" / "cat" / "._0.png")
    data = opened(f"folder:{root}")
    assert data.info.num_classes == 2
    assert len(data.train) == 6


def test_limit_takes_images_of_all_classes(tmp_path: Path) -> None:
    data = opened(f"folder:{pets(tmp_path)}", limit=3)
    assert sorted(data.train.labels.tolist()) == [0, 0, 1]
    assert len(opened(f"folder:{tmp_path}", limit=1).test) == 1


def test_real_photographs() -> None:
    root = reference("imagenette_small")
    assert len(opened(f"folder:{root}").train) == 360
    data = opened(f"folder:{root}", image_size=64, limit=120)
    assert facts(root).image_size == 224
    assert (data.info.num_classes, data.info.channels, data.info.image_size) == (10, 3, 64)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (108, 12, 60)
    assert torch.bincount(data.test.labels).tolist() == [6] * 10
    (batch,) = data.train.train_batches([(0, torch.arange(8))], seed=0)
    assert batch.x.shape == (8, 3, 64, 64)
    assert batch.y.tolist() == data.train.labels[:8].tolist()
    batch = next(data.test.eval_batches(10))
    assert batch.y.tolist() == data.test.labels[:10].tolist()
    assert 0.2 < batch.x.mean() < 0.7


def test_a_net_of_timm_s_is_trained_and_judged_on_its_own_view(tmp_path: Path) -> None:
    """Size, interpolation and crop of its configuration, in a run and when it is judged again."""
    config = RunConfig(backbone="test_convnext", data=f"folder:{pets(tmp_path, size=(240, 200))}")
    trained = open_run_data(config, None, CPU)
    assert (trained.info.image_size, trained.info.view.interpolation) == (160, "bicubic")
    judged = open_images(
        make_parser("").parse_args(["runs/x"]),
        ModelSpec("runs/x", Kind.RUN, Path("runs/x"), run=config),
        CPU,
    )
    images = [next(data.test.eval_batches(2)).x for data in (trained, judged)]
    assert torch.equal(*images)
    plain = next(opened(config.data, image_size=160).test.eval_batches(2)).x
    assert not torch.equal(images[0], plain)


def test_small_images_are_judged_whole_and_the_facts_say_so(tmp_path: Path) -> None:
    assert facts(pets(tmp_path / "small")).view.crop == 1.0
    assert facts(pets(tmp_path / "large", size=(80, 80))).view.crop == 224 / 256


def test_a_link_out_of_the_folder_is_refused_unless_allowed(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    private = write(tmp_path / "private" / "1.png")
    (root / "train" / "cat" / "0.png").unlink()
    for place, target in (
        (root / "train" / "cat" / "0.png", private),
        (root / "train" / "cat" / "more", private.parent),
        (root / "train" / "eel", private.parent),
    ):
        place.symlink_to(target)
        text = error(root)
        assert "a link leads out of the data folder" in text
        assert str(place) in text
        assert "--follow-links" in text
        assert opened(f"folder:{root}", follow_links=True).info.num_classes >= 2
        place.unlink()


def test_links_inside_the_folder_and_to_the_folder_itself_are_read(tmp_path: Path) -> None:
    root = pets(tmp_path / "pets")
    (root / "train" / "cat" / "again.png").symlink_to(root / "train" / "cat" / "0.png")
    (tmp_path / "linked").symlink_to(root)
    assert len(opened(f"folder:{tmp_path / 'linked'}").train) == 7
    (root / "train" / "cat" / "round").symlink_to(root / "train")
    assert "a link leads to a folder that contains it" in error(root)
