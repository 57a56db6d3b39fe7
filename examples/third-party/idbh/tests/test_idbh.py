"""The contract every plugin keeps, and the transforms by hand."""

from __future__ import annotations

import pytest
import torch
from abatis_idbh.transforms import colour, crop_shift, partners, rectangles

import abatis
from abatis import Batch, Net, Randomness, RunConfig
from abatis.testing import PluginContract, plan_of, tiny_network

OFF = {"flip": 0, "shift": 0, "colour": 0, "erase": 0}


class TestIdbh(PluginContract):
    plugin = "idbh"


class TestCutmix(PluginContract):
    plugin = "idbh"
    options = {"cutmix": 1, "shift": 2, "fill": "grey"}


def transformed(x, y, **options):
    plan = plan_of(
        "idbh", net=Net(tiny_network(3)), num_classes=3, options=options, random=Randomness(0)
    )
    ((_, hooks),) = plan.trainers
    return hooks.transform_batch(Batch(x, y, torch.arange(len(x))))


def test_crop_shift_by_hand():
    """Draws of 0.9 cut 2 of at most 2 rows off: both above (0.9) and the row put down at the top
    (0); no column is cut.
    """
    x = torch.tensor([[1.0, 2], [3, 4], [5, 6]]).view(1, 1, 3, 2)
    found = crop_shift(x, torch.tensor([[0.9, 0.9, 0.0, 0.0, 0.0, 0.0]]), 2, 0.0)
    assert found.view(3, 2).tolist() == [[5, 6], [0, 0], [0, 0]]
    found = crop_shift(x, torch.tensor([[0.9, 0.0, 0.9, 0.4, 0.0, 0.9]]), 2, 0.5)
    assert found.view(3, 2).tolist() == [[0.5, 0.5], [0.5, 0.5], [1, 2]]


def test_crop_shift_keeps_every_image_with_nothing_to_cut():
    x = torch.rand(3, 2, 5, 4)
    assert torch.equal(crop_shift(x, torch.rand(3, 6), 0, 0.0), x)


def test_colour_by_hand():
    """Brightness times 0.5, and a contrast of 1.5 around the mean 0.5."""
    x = torch.tensor([[0.2, 0.8]] * 2).view(2, 1, 1, 2)
    found = colour(x, torch.tensor([[0.0, 0.1], [1.0, 0.9]]), 0.5)
    assert found.flatten().tolist() == pytest.approx([0.1, 0.4, 0.05, 0.95])


def test_rectangles_by_hand():
    """Half the sides of 4 by 4 pixels around pixel (2, 0): rows 1 and 2, and of columns -1 and 0
    the second.
    """
    found = rectangles(
        torch.zeros(1, 1, 4, 4),
        torch.tensor([0.5]),
        torch.tensor([0.5]),
        torch.tensor([[0.5, 0.1]]),
    )
    assert found.nonzero()[:, 1:].tolist() == [[1, 0], [2, 0]]


def test_each_has_the_partner_whose_draw_is_next():
    everyone = torch.tensor([0.5, 0.1, 0.9])
    assert partners(everyone, everyone).tolist() == [2, 0, 1]
    assert partners(everyone, everyone[1:]).tolist() == [0, 1]


def test_cutmix_labels_by_the_share_of_the_pixels():
    """Images that are 0, 0.5 and 1 all over: what their pixels are made of is what their labels
    say.
    """
    x = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8).double().contiguous()
    found = transformed(x, torch.arange(3), **OFF, cutmix=1)
    shares = torch.stack(
        [(found.x[:, 0] == value).double().mean((1, 2)) for value in (0, 0.5, 1)], 1
    )
    assert torch.allclose(found.y_soft, shares)
    assert ((found.y_soft > 0).sum(1) == 2).any()
    assert torch.equal(found.y, found.y_soft.argmax(1))


def test_without_cutmix_labels_stay_hard_and_erasing_leaves_a_hole():
    found = transformed(
        torch.ones(4, 3, 8, 8).double(),
        torch.zeros(4).long(),
        **{**OFF, "erase": 1, "erase_area": 0.5},
    )
    assert found.y_soft is None
    holes = (found.x[:, 0] == 0).double().mean((1, 2))
    assert (holes > 0).all()
    assert (holes <= 0.75).all()


def test_trains_on_digits(tmp_path):
    config = RunConfig(
        plugin=["idbh"],
        idbh={"shift": 2, "cutmix": 0.5},
        backbone="cnn",
        data="digits",
        limit=60,
        batch_size=32,
        epochs=1,
        threat="Linf:0.1",
        attack={"steps": 1},
        eval="none",
        quiet=True,
        out=tmp_path,
    )
    assert (abatis.run(config).folder / "weights-last.safetensors").exists()
