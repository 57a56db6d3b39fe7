"""Corruptions: values worked out by hand, the published layouts, and what is refused."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from benchmarks.known_networks import cifar10, known
from PIL import Image

from abatis.cli import main
from abatis.errors import DataError, UsageError
from abatis.evaluate import judge_clean
from abatis.evaluate.corruptions.geometry import blur_motion, make_disc, make_plasma, warp
from abatis.evaluate.corruptions.operations import corrupt, draw_for
from abatis.evaluate.corruptions.published import ALEXNET, NAMES, PARAMETERS, compute_mce
from abatis.evaluate.corruptions.sources import CorruptedHere
from abatis.report.eval_record import read_record
from abatis.report.record_check import find_fault
from tests.reference import reference_dir

GREY = np.full((32, 32, 3), 128, np.uint8)
LARGE_GREY = np.full((224, 224, 3), 128, np.uint8)
FROST = tuple(np.full((300, 300, 3), 50 * number, np.uint8) for number in range(1, 6))

NET = """
import torch
from torch import nn

class Brightness(nn.Module):
    '''Class 1 for bright images.'''
    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([0.6 - mean, mean - 0.6], 1)

def net():
    return Brightness()
"""


@pytest.fixture(scope="module")
def noisy():
    return np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)


def once(pixels, name, severity=1, index=0):
    return corrupt(pixels, name, severity, draw_for(0, name, severity, index), FROST)


def test_brightness_is_added_to_the_largest_channel():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[0, 0] = (102, 51, 0)  # V 0.4, to 0.45: all channels grow by 0.45 / 0.4
    pixels[0, 1] = (255, 51, 0)  # V is at its end
    bright = once(pixels, "brightness")
    assert bright[0, 0].tolist() == [int(0.45 * 255), int(0.225 * 255), 0]
    assert bright[0, 1].tolist() == [255, 51, 0]
    assert bright[9, 9].tolist() == [int(0.05 * 255)] * 3  # black has no hue
    assert once(LARGE_GREY, "brightness")[0, 0, 0] == int((128 / 255 + 0.1) * 255)


def test_contrast_shrinks_towards_the_mean_of_the_channel():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :, 0] = 200  # mean 100
    shrunk = once(pixels, "contrast", 5)
    assert shrunk[0, 0].tolist() == [115, 0, 0]  # 100 + 0.15 x 100
    assert shrunk[31, 0].tolist() == [85, 0, 0]


def test_the_noises_have_their_published_strength():
    noise = np.stack([once(GREY, "gaussian_noise", 5, index) for index in range(20)]) / 255
    n = noise.size
    assert abs(noise.std() - 0.10) < 4 * 0.10 / np.sqrt(2 * n) + 1 / 255
    assert abs(noise.mean() - 127.5 / 255) < 4 * 0.10 / np.sqrt(n) + 0.5 / 255
    shots = np.stack([once(GREY, "shot_noise", 5, index) for index in range(20)]) / 255
    assert abs(shots.std() - np.sqrt(128 / 255 / 50)) < 0.003  # Poisson: variance x / c
    hit = np.stack([once(GREY, "impulse_noise", 5, index) for index in range(20)])
    changed = (hit != 128) & (hit != 127)
    assert abs(changed.mean() - 0.07) < 4 * np.sqrt(0.07 * 0.93 / n)
    assert set(np.unique(hit[changed])) == {0, 255}
    assert abs((hit[changed] == 255).mean() - 0.5) < 4 * 0.5 / np.sqrt(changed.sum())


def test_pixelate_and_jpeg_are_pillow_s(noisy):
    small = Image.fromarray(noisy).resize((30, 30), Image.Resampling.BOX)  # int(32 x 0.95)
    assert np.array_equal(
        once(noisy, "pixelate"), np.asarray(small.resize((32, 32), Image.Resampling.BOX))
    )
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=40)
    assert np.array_equal(once(noisy, "jpeg_compression", 5), np.asarray(Image.open(file)))


def test_a_small_disc_is_a_point_and_a_large_one_is_flat():
    assert make_disc(0.3, 0.1)[8, 8] == pytest.approx(1)
    disc = make_disc(1, 0.05)  # centre and four neighbours, a Gaussian that blurs nothing
    assert disc[8, 7:10].tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert disc.sum() == pytest.approx(1)
    assert make_disc(10, 0.5).shape == (21, 21)


def test_motion_blur_along_a_row_is_half_a_gaussian():
    x = np.zeros((9, 9))
    x[4, 6] = 1.0
    weights = np.exp(-(np.arange(5) ** 2) / 2.0)
    weights /= weights.sum()
    blurred = blur_motion(x, 2, 1.0, 0.0)
    assert blurred[4, 2:7].tolist() == pytest.approx(weights[::-1].tolist())
    assert blurred.sum() == pytest.approx(1)


def test_a_texture_wraps_and_fills_the_unit_interval_and_a_warp_moves_points():
    plasma = make_plasma(32, 3.0, draw_for(0, "fog", 1, 0))
    assert (plasma.min(), plasma.max()) == (0.0, 1.0)
    assert np.unique(plasma).size > 900
    x = np.random.RandomState(0).rand(8, 8, 3)
    points = np.array([[1.0, 1.0], [5.0, 1.0], [1.0, 5.0]])
    moved = warp(x, points, points + np.array([1.0, 0.0]))  # one pixel to the right
    assert np.allclose(moved[:, 1:], x[:, :-1])
    assert np.allclose(moved[:, 0], x[:, 1])  # reflected


def test_frost_mixes_a_photograph_in():
    draws = draw_for(0, "frost", 1, 3)
    value = 50 * (1 + draws.randint(5))
    assert once(GREY, "frost", 1, 3)[0, 0, 0] == min(255, int(128 + 0.2 * value))


@pytest.mark.parametrize("name", NAMES)
def test_every_corruption_keeps_shape_and_depends_on_seed_and_point_alone(name, noisy):
    first = once(noisy, name, 3, 5)
    assert first.shape == noisy.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, once(noisy, name, 3, 5))
    assert not np.array_equal(first, noisy)
    assert [len(PARAMETERS[side][name]) for side in (32, 224)] == [5, 5]
    steady = ("defocus_blur", "zoom_blur", "brightness", "contrast")
    if name not in (*steady, "pixelate", "jpeg_compression"):
        assert not np.array_equal(first, once(noisy, name, 3, 6))


def test_the_mean_corruption_error_is_relative_to_alexnet():
    assert compute_mce(ALEXNET) == pytest.approx(1)
    half = {name: 0.5 * error for name, error in ALEXNET.items()}
    assert compute_mce({**half, "fog": ALEXNET["fog"]}) == pytest.approx((14 * 0.5 + 1) / 15)


def test_other_sizes_and_grey_images_are_refused(points):
    for shape, says in (((1, 3, 64, 64), "64x64"), ((1, 1, 32, 32), "1 channel")):
        with pytest.raises(UsageError, match=says):
            CorruptedHere(points(torch.zeros(shape), torch.zeros(1).long()), 0)


def test_images_do_not_depend_on_the_batch(points):
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    source = CorruptedHere(points(x, torch.zeros(5).long(), torch.arange(7, 12)), 1)
    whole = torch.cat([batch.x for batch in source.corrupt("snow", 2).eval_batches(5)])
    parts = torch.cat([batch.x for batch in source.corrupt("snow", 2).eval_batches(2)])
    one = source.corrupt("snow", 2).subset(torch.tensor([3]))
    assert torch.equal(whole, parts)
    assert torch.equal(next(one.eval_batches(1)).x[0], whole[3])
    assert torch.equal(whole * 255, (whole * 255).round())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten images 32x32, dark (class 0) and light ones, and corruptions of two kinds of them."""
    folder = tmp_path_factory.mktemp("data")
    y = np.arange(10) % 2
    x = np.full((10, 32, 32, 3), 51, np.uint8)  # 0.2, or 0.7
    x[y == 1] = 178
    np.savez(folder / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (folder / "net.py").write_text(NET)
    c = folder / "SET-C"
    c.mkdir()
    np.save(c / "labels.npy", np.tile(y, 5))
    np.save(
        c / "brightness.npy",
        np.concatenate([np.clip(x + 51.0 * s, 0, 255) for s in range(5)]).astype(np.uint8),
    )  # from severity 4 on, the dark ones are bright: 0.2 + 0.6
    np.save(c / "fog.npy", np.concatenate([255 - x if s == 4 else x for s in range(5)]))
    return folder


def ask(data, tmp_path, *more):
    words = ["eval", f"{data / 'net.py'}:net", "--data", f"npz:{data / 'set.npz'}"]
    return main([*words, "--ladder", "clean", "--out", str(tmp_path / "out"), *more])


def test_the_published_arrays_are_read_by_row_and_severity(data, tmp_path, capsys):
    assert ask(data, tmp_path, "--corruptions", str(data / "SET-C")) == 0
    record = read_record(tmp_path / "out")
    found = record["corruptions"]
    assert found["right"] == {"fog": [10, 10, 10, 10, 0], "brightness": [10, 10, 5, 5, 5]}
    assert found["corrupted_acc"] == pytest.approx(0.75)
    assert "mce" not in found
    assert len(found["left_out"]) == 13
    printed = capsys.readouterr().out
    assert "mean over 2 corruptions" in printed
    assert "not over all 15 corruptions" in printed
    assert "robust" not in printed.replace("the robustness", "")
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Accuracy by severity" in report
    assert "brightness" in report
    edited = json.loads(json.dumps(record))
    edited["corruptions"]["corrupted_acc"] = 0.9
    assert "corrupted_acc is 0.9" in find_fault(edited)
    edited["corruptions"]["right"]["fog"][0] = 11
    assert "between 0 and n" in find_fault(edited)


def test_arrays_of_other_images_are_refused(data, tmp_path, capsys):
    other = tmp_path / "C"
    other.mkdir()
    np.save(other / "labels.npy", np.tile(np.arange(10)[::-1] % 2, 5))
    np.save(other / "fog.npy", np.zeros((50, 32, 32, 3), np.uint8))
    assert ask(data, tmp_path, "--corruptions", str(other)) == DataError.exit_code
    assert "not those of the test images" in capsys.readouterr().err
    np.save(other / "labels.npy", np.tile(np.arange(10) % 2, 5))
    np.save(other / "fog.npy", np.zeros((50, 16, 16, 3), np.uint8))
    assert ask(data, tmp_path, "--corruptions", str(other)) == DataError.exit_code
    assert "not uint8 (50, 32, 32, 3)" in capsys.readouterr().err
    assert ask(data, tmp_path, "--corruptions", str(tmp_path / "none")) == 2
    assert "no folder" in capsys.readouterr().err


def test_the_corruptions_are_made_where_there_are_no_files(data, tmp_path, capsys):
    assert ask(data, tmp_path, "--corruptions") == 0
    record = read_record(tmp_path / "out")
    found = record["corruptions"]
    assert found["source"] == "corruptions made here, seed 0"
    assert set(NAMES) - {"frost"} <= set(found["right"]) | set(found["left_out"])
    assert found["right"]["gaussian_noise"] == [10] * 5  # the mean stays
    assert found["right"]["pixelate"] == [10] * 5
    assert "have other random draws than the published files" in capsys.readouterr().out


def test_folders_of_images_are_matched_by_class_and_name(tmp_path):
    """ImageNet-C's layout, one corruption in a group folder; every third image is lost."""
    for split in ("train", "val"):
        for name, value in (("a", 20), ("b", 220)):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (32, 32), (value,) * 3).save(folder / f"{number}.png")
    for severity in range(1, 6):
        for name in ("a", "b"):
            folder = tmp_path / "C" / "weather" / "fog" / str(severity) / name
            folder.mkdir(parents=True)
            for number in range(3):
                value = 220 if severity == 5 or name == "b" else 20
                Image.new("RGB", (32, 32), (value,) * 3).save(folder / f"{number}.JPEG")
    (tmp_path / "net.py").write_text(NET)
    words = ["eval", f"{tmp_path / 'net.py'}:net", "--data", f"folder:{tmp_path / 'set'}"]
    words += ["--ladder", "clean", "--out", str(tmp_path / "out")]
    assert main([*words, "--corruptions", str(tmp_path / "C")]) == 0
    found = read_record(tmp_path / "out")["corruptions"]
    assert found["right"] == {"fog": [6, 6, 6, 6, 3]}
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = ["path,label,split"]
    for label, value in (("a", 20), ("b", 220)):
        for number in range(3):  # the corrupted 2.JPEG of class a is not that of class b
            file = flat / f"{label}{number}" / f"{number}.png"
            file.parent.mkdir()
            Image.new("RGB", (32, 32), (value,) * 3).save(file)
            rows.append(f"{file.relative_to(flat)},{label},test")
    (flat / "list.csv").write_text("\n".join(rows))
    listed = [*words, "--data", f"csv:{flat / 'list.csv'}:test", "--out", str(tmp_path / "listed")]
    assert main([*listed, "--corruptions", str(tmp_path / "C")]) == 0
    assert read_record(tmp_path / "listed")["corruptions"]["right"] == found["right"]
    (tmp_path / "C" / "weather" / "fog" / "1" / "a" / "0.JPEG").unlink()
    assert main([*words, "--corruptions", str(tmp_path / "C")]) == DataError.exit_code


@pytest.mark.slow
@pytest.mark.skipif(reference_dir() is None, reason="networks and images are not here")
def test_a_released_network_is_wrong_more_often_the_stronger_the_corruption():
    """On 200 images; published robust networks lose most on fog and contrast."""
    images = cifar10(200)
    source = CorruptedHere(images, 0)
    module = known("resnet4b")
    clean = int(judge_clean(module, images.eval_batches(200)).sum())
    right = {
        (name, severity): int(
            judge_clean(module, source.corrupt(name, severity).eval_batches(200)).sum()
        )
        for name in ("fog", "contrast", "gaussian_noise", "jpeg_compression")
        for severity in (1, 5)
    }
    for name in ("fog", "contrast"):
        assert right[name, 5] < right[name, 1] - 20
    assert sum(right.values()) / len(right) < clean
