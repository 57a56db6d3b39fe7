"""Image files of every kind become the right RGB values, or are refused by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from abatis.data.decoding import TURNS, read_rgb, read_size
from abatis.errors import DataError
from tests.data.common import opened
from tests.data.folders import error, pets, pixels, write
from tests.reference import reference_dir


def encoded(image: Image.Image, form: str, **options: Any) -> io.BytesIO:
    """The content of an image file."""
    content = io.BytesIO()
    image.save(content, form, **options)
    content.seek(0)
    return content


def seen(content: io.BytesIO) -> list[Any]:
    """What is read of it, as nested lists (H, W, 3)."""
    return np.asarray(read_rgb(content, "odd")).tolist()


def grey(values: list[list[int]]) -> list[Any]:
    return [[[value] * 3 for value in row] for row in values]


def test_a_pgm_of_12_bits_is_scaled_by_its_largest_value() -> None:
    content = io.BytesIO(b"P2\n2 2\n4095\n0 4095 2048 1365\n")
    assert seen(content) == grey([[0, 255], [128, 85]])


def test_the_pgm_of_12_bits_that_people_have_is_read() -> None:
    folder = reference_dir()
    file = None if folder is None else folder / "inputs" / "grey12.pgm"
    if file is None or not file.exists():
        pytest.skip("no inputs")
    values = np.frombuffer(file.read_bytes().partition(b"4095\n")[2], ">u2").reshape(8, 8)
    expected = (values / 4095 * 255).round()
    np.testing.assert_array_equal(np.asarray(read_rgb(str(file), "x"))[..., 0], expected)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled(form: str) -> None:
    image = Image.fromarray(np.array([[0, 65535], [32896, 257]], np.uint16))
    assert seen(encoded(image, form)) == grey([[0, 255], [128, 1]])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_orientation_says(form: str, orientation: int) -> None:
    upright = Image.new("RGB", (48, 32), (255, 0, 0))
    upright.paste((0, 0, 255), (0, 0, 16, 16))  # blue in the corner above left
    turn = TURNS.get(orientation)
    back = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270}
    back |= {value: key for key, value in back.items()}
    stored = upright if turn is None else upright.transpose(back.get(turn, turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
    content = encoded(stored, form, exif=exif, **options)
    found = read_rgb(content, "odd")
    assert found.size == (48, 32)
    blue = [found.getpixel(place) for place in ((4, 4), (40, 4), (4, 28), (40, 28))]
    assert [pixel[2] > 200 for pixel in blue] == [True, False, False, False]


def test_damaged_exif_data_do_not_hide_an_image() -> None:
    content = encoded(Image.new("RGB", (4, 4), (9, 8, 7)), "PNG", exif=b"Exif\0\0broken")
    assert seen(content)[0][0] == [9, 8, 7]


def test_transparent_pixels_are_white_whatever_lies_behind_them(
    recwarn: pytest.WarningsRecorder,
) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 0, 0, 0, 200, 100, 50])
    palette.putdata([0, 1, 2])
    white, half = [255, 255, 255], [227, 177, 152]  # 200 + (255 - 200) / 2, and so on
    by_index = encoded(palette, "PNG", transparency=1)
    assert seen(by_index) == [[[10, 20, 30], white, [200, 100, 50]]]
    by_alpha = encoded(palette, "PNG", transparency=bytes([255, 0, 128]))
    assert np.abs(np.array(seen(by_alpha)) - [[[10, 20, 30], white, half]]).max() <= 1
    rgba = Image.new("RGBA", (1, 1), (1, 2, 3, 0))
    assert seen(encoded(rgba, "PNG")) == [[white]]
    la = Image.new("LA", (2, 1))
    la.putdata([(40, 255), (40, 0)])
    assert seen(encoded(la, "PNG")) == grey([[40, 255]])
    key = Image.new("RGB", (2, 1), (5, 6, 7))
    key.putpixel((1, 0), (0, 0, 0))
    assert seen(encoded(key, "PNG", transparency=(0, 0, 0))) == [[[5, 6, 7], white]]
    assert not recwarn.list


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 255, 0))
    image.paste((0, 255, 255, 0), (0, 0, 16, 8))
    found = np.asarray(read_rgb(encoded(image, "JPEG", quality=100), "odd"), np.int64)
    assert np.abs(found[2, 2] - [255, 0, 0]).max() <= 3
    assert np.abs(found[13, 2] - [0, 255, 0]).max() <= 3


def test_bits_and_palettes_without_transparency_are_read_as_they_are() -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    assert seen(encoded(bits, "PNG")) == grey([[255, 0]])
    palette = Image.new("P", (1, 1))
    palette.putpalette([10, 20, 30])
    assert seen(encoded(palette, "PNG")) == [[[10, 20, 30]]]


def test_32_bits_are_refused_by_name() -> None:
    for values in (np.float32, np.int32):
        content = encoded(Image.fromarray(np.ones((2, 2), values)), "TIFF")
        with pytest.raises(DataError, match="32 bits a channel") as caught:
            read_size(content, "odd.tiff")
        assert "odd.tiff" in str(caught.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_half_a_file_is_refused_by_name(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), form).getvalue()
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_rgb(io.BytesIO(content[: len(content) // 2]), "half")
    assert "half" in str(caught.value)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    root = pets(tmp_path)
    grey = pixels(write(root / "val" / "cat" / "9.png", mode="L"))
    write(root / "val" / "dog" / "9.png", mode="RGBA")
    batch = next(opened(f"folder:{root}").test.eval_batches(2))
    assert batch.x.shape == (2, 3, 12, 12)
    np.testing.assert_array_equal(batch.x[0].numpy(), grey)


def test_16_bits_are_scaled_and_32_refused(tmp_path: Path) -> None:
    root = pets(tmp_path)
    grey = np.arange(144, dtype=np.uint16).reshape(12, 12)
    Image.fromarray(grey * 257).save(root / "val" / "cat" / "9.png")
    x = next(opened(f"folder:{root}").test.eval_batches(2)).x[0] * 255
    assert torch.equal(x.round(), torch.from_numpy(grey.astype(np.float32)).expand(3, 12, 12))
    Image.fromarray(grey.astype(np.float32)).save(root / "train" / "dog" / "odd.tiff")
    assert "32 bits a channel" in error(root)
    assert len(opened(f"folder:{root}", skip_broken=True).train) == 6
