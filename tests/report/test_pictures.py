"""Pictures: what is kept of an attack, what is drawn of it, and what a page shows."""

from __future__ import annotations

import io
import json
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import abatis
from abatis import Threat
from abatis.api.batch import Batch
from abatis.commands.compare import pictures as compare
from abatis.commands.compare.pictures import show_margins, show_pictures
from abatis.data.arrays import ArraySplit
from abatis.evaluate.album import Album, scale_down
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from abatis.evaluate.withstood import Withstood
from abatis.report import eval_record, pictures
from abatis.report.html import Card, Gallery, Picture
from abatis.report.png import encode_difference, encode_gradient, encode_png
from abatis.report.run_report import write_report
from tests.helpers import tiny

EPS = 0.25


def decode(png):
    """(H, W) or (H, W, C) of 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(b64decode(png)))).astype(int)


def test_a_picture_holds_the_pixels():
    image = np.array([[[0, 1], [0.5, 0.2]]], np.float32)
    assert decode(encode_png(image)).tolist() == [[0, 255], [128, 51]]
    assert decode(encode_png(np.ones((3, 2, 2), np.float32))).shape == (2, 2, 3)


def test_a_difference_is_enlarged_until_it_fills_the_range():
    png, times = encode_difference(np.array([[[0.0, 0.125], [-0.0625, 0.0]]], np.float32))
    assert times == 4
    assert decode(png).tolist() == [[128, 255], [64, 128]]
    assert encode_difference(np.zeros((1, 2, 2), np.float32))[1] == 1


def test_a_gradient_is_shown_between_three_standard_deviations():
    values = np.array([[[1.0, -1.0], [1.0, -1.0]]], np.float32)  # standard deviation 1
    assert decode(encode_gradient(values)).tolist() == [[170, 85], [170, 85]]  # (1/2 +- 1/6) * 255
    assert (decode(encode_gradient(np.zeros((3, 2, 2), np.float32))) == 128).all()


@pytest.mark.parametrize(("side", "small"), [(8, 8), (56, 56), (57, 28), (224, 56), (299, 49)])
def test_large_images_are_scaled_down_by_a_whole_number(side, small):
    image = torch.rand(3, side, side)
    times = side // small
    assert scale_down(image).shape == (3, small, small)
    assert torch.allclose(scale_down(image)[:, 0, 0], image[:, :times, :times].mean((1, 2)))


class Sign(nn.Module):
    """One pixel: class 0 above a half, with the logits (x - 0.5, 0.5 - x)."""

    def forward(self, x):
        z = x.flatten(1)[:, :1] - 0.5
        return torch.cat([z, -z], 1)


def attack_by(shift):
    def attack(batch: Batch):
        moved = (batch.x - shift).clamp(0, 1)
        return moved, torch.ones_like(batch.y, dtype=torch.bool)

    return attack


def test_the_first_image_that_broke_a_point_is_kept_and_else_the_nearest():
    x = torch.tensor([0.55, 0.6, 0.9]).view(3, 1, 1, 1)
    points = ArraySplit(x, torch.zeros(3, dtype=torch.int64), "none")
    album = Album()
    album.open(points.labels, False)
    with isolate(Sign()) as net:
        judge = Judge(
            net, points, Threat.parse(f"Linf:{EPS}"), 8, withstood=Withstood(3, 0, 2, album)
        )
        everything = torch.ones(3, dtype=torch.bool)
        for name, shift in (("weak", 0.07), ("strong", 0.2), ("outside", 0.3), ("weaker", 0.06)):
            judge.run_attack(name, attack_by(shift), everything)
    assert {place: kept.attack for place, kept in album.broken.items()} == {
        0: "weak",
        1: "strong",
    }
    assert float(album.broken[0].image) == pytest.approx(0.48)
    predicted, probability = album.broken[0].answer
    assert predicted == 1
    assert probability == pytest.approx(1 / (1 + np.exp(-0.04)))
    assert album.withstood[2].attack == "strong"  # inside the ball, and nearest
    assert float(album.withstood[2].image) == pytest.approx(0.7)
    again = Album.from_json(json.loads(json.dumps(album.to_json())))
    assert float(again.broken[0].image) == pytest.approx(0.48, abs=1e-5)
    assert again.withstood[2].answer == album.withstood[2].answer


def make_image(**changes):
    png = encode_png(np.zeros((1, 2, 2), np.float32))
    return {
        "position": 3,
        "index": 3,
        "label": 1,
        "correct": True,
        "broken_by": "PGD-20",
        "clean": png,
        "clean_answer": [1, 0.9],
        "adversarial": png,
        "adversarial_answer": [0, 0.6],
        "difference": png,
        "times": 5.0,
        "gradient": png,
        "twin_gradient": None,
        **changes,
    }


def test_a_card_says_what_became_of_the_image():
    table = {
        "threat": "Linf:0.1",
        "images": [
            make_image(),
            make_image(broken_by=None),
            make_image(correct=False, broken_by=None, adversarial=None, difference=None),
        ],
    }
    (gallery,) = pictures.show_pictures(table, ("cat", "dog"))
    assert [card.badge.text for card in gallery.cards] == [
        "broken by PGD-20",
        "withstood all",
        "wrong without an attack",
    ]
    assert [len(card.images) for card in gallery.cards] == [3, 3, 1]
    assert gallery.cards[0].images[1].lines == ("adversarial", "cat, 60\N{NO-BREAK SPACE}%")
    (maps,) = pictures.show_gradients(table, ())
    assert [image.lines for image in maps.cards[0].images] == [("this network",)]


@pytest.mark.parametrize(
    ("images", "layout"), [(1, "pairs"), (2, "pairs"), (3, "threes"), (4, "fours"), (5, "wide")]
)
def test_a_gallery_is_laid_out_by_its_widest_card(images, layout):
    cards = [Card("cat", None, [Picture("AAAA", "a cat", ())] * count) for count in (1, images)]
    assert Gallery("cats", cards).layout == layout


def test_a_record_that_was_tampered_with_inserts_nothing():
    evil = make_image(clean='"><script>', adversarial=7, clean_answer=None)
    assert pictures.show_pictures({"images": [evil]}, ()) == []
    assert pictures.show_pictures({"images": "none"}, ()) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    config = tiny(out, epochs=1, limit=60, ladder="quick", name="one")
    return abatis.run(config).folder


def test_a_run_shows_its_pictures_and_they_agree_with_its_points(folder):
    record = eval_record.read_record(folder)
    found = eval_record.read_pictures(folder, record)
    images = found["images"]
    assert len(images) == 12
    assert len({image["label"] for image in images}) > 5
    assert abatis.Threat.parse(found["threat"]).eps == 0.1
    for image in images:
        place = image["position"]
        assert image["correct"] == bool(record["per_point"]["clean"][place])
        withstood = image["correct"] and image["broken_by"] is None
        assert withstood == bool(record["per_point"]["robust"][place])
        assert (image["clean_answer"][0] == image["label"]) == image["correct"]
        if image["broken_by"] is not None and image["adversarial"] is not None:
            assert image["adversarial_answer"][0] != image["label"]
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count('src="data:image/png;base64,') >= 12
    assert len(text) < 600_000


def test_pictures_of_another_evaluation_are_not_shown(folder, tmp_path):
    record = eval_record.read_record(folder)
    assert eval_record.read_pictures(folder, {**record, "content_sha256": "other"}) == {}
    assert eval_record.read_pictures(tmp_path, record) == {}
    path = folder / "pictures.json"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("Linf:0.1", "Linf:0.2"), encoding="utf-8")
    try:
        assert eval_record.read_pictures(folder, record) == {}
        assert "data:image/png" not in write_report(folder).read_text(encoding="utf-8")
    finally:
        path.write_text(before, encoding="utf-8")


def test_a_comparison_shows_the_same_images(folder):
    row = {"seeds": [0], "runs": [str(folder)], "verdict": "PASS"}
    rows = [{**row, "method": "trades"}, {**row, "method": "at", "verdict": "FAIL"}]
    (gallery,) = show_pictures({"baseline": "at", "rows": rows})
    names = [image.lines[0] for image in gallery.cards[0].images]
    assert names == ["clean", "trades", "at (FAIL)"]


def test_a_comparison_shows_the_margins_of_two_methods(monkeypatch):
    margins = {"at": [0.5, None, 1.0], "trades": [0.75, 0.5, 0.5]}
    records = {
        name: {"margins": {"per_point": {"input_L2": values}}, "masking": {"positions": [3, 5, 9]}}
        for name, values in margins.items()
    }
    monkeypatch.setattr(compare, "_read", records.get)
    rows = [{"method": name, "seeds": [0, 1], "runs": [name, "none"]} for name in ("trades", "at")]
    (figure,) = show_margins({"baseline": "at", "rows": rows})
    assert "1 of 2 points lie above the line of equality" in figure.svg
    assert "of 2 test images" in figure.caption
    other_seed = {**rows[0], "seeds": [2, 3]}
    assert show_margins({"baseline": "at", "rows": [other_seed, rows[1]]}) == []
