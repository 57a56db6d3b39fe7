"""The mean length of 5 DeepFool steps: published values, one step by hand, and the record."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import abatis
from abatis.api.batch import Batch
from abatis.evaluate.deepfool import overshoot_each_step, size
from abatis.evaluate.isolation import isolate
from abatis.evaluate.ladder import VERSIONS
from abatis.evaluate.margins import Margins, measure_five_steps
from abatis.report.eval_record import read_record
from abatis.report.eval_sections import show_margins
from abatis.report.json_part import Part
from tests.golden import golden, linear_model
from tests.helpers import tiny


def released_network(arrays) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for number in (1, 2, 3):
        weight, bias = (
            torch.tensor(arrays[f"param_fc{number}.{one}"]) for one in ("weight", "bias")
        )
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        layer.weight.data, layer.bias.data = weight, bias
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batches_of(x, cuts):
    return [
        Batch(part, torch.zeros(len(part)).long(), torch.arange(len(part)))
        for part in x.split(cuts)
    ]


def test_the_released_code_s_perturbations_and_their_mean():
    """40 images, a quarter of them misclassified; some do not leave their class in 5 steps."""
    arrays = golden("amm_official_relu")
    x = torch.tensor(arrays["x"])
    with isolate(released_network(arrays)) as net:
        r = overshoot_each_step(net, x)
        lengths = measure_five_steps(net, batches_of(x, 7))
    expected = torch.tensor(arrays["eval_r_all"]).view_as(r)
    assert (r - expected).abs().max() <= 1e-9
    assert (lengths - torch.tensor(arrays["eval_margin_all"])).abs().max() <= 1e-9
    assert lengths.mean().item() == pytest.approx(float(arrays["eval_mean_margin"]), rel=1e-9)


def test_one_step_by_hand():
    """z = (3 a + 4 b, 0) at (1, 1): gap 7, gradient (3, 4), so 7/5 along (3, 4)/5, and 2 % more."""
    x = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    with isolate(linear_model([[3, 4], [0, 0]])) as net:
        r = overshoot_each_step(net, x, epsilon=0)
    assert r.flatten().tolist() == pytest.approx([-0.84 * 1.02, -1.12 * 1.02], rel=1e-12)


def test_a_point_that_cannot_leave_its_class_counts_with_what_it_moved():
    """Without a gradient it does not move, and its length is 0 instead of infinite."""
    x = torch.tensor([[0.5, 0.5]], dtype=torch.float64).view(1, 1, 1, 2)

    class Flat(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]], dtype=x.dtype) + 0 * x.flatten(1)

    with isolate(Flat()) as net:
        assert measure_five_steps(net, batches_of(x, 1)).tolist() == [0]
        (moved,) = overshoot_each_step(net, x, steps=0)
    assert size(moved[None], "L2").item() == 0


def test_the_record_says_of_how_many_points():
    lengths = torch.tensor([0.1, 0.3], dtype=torch.float64)
    margins = Margins({"logit": torch.ones(1, dtype=torch.float64)}, {}, five_steps=lengths)
    assert margins.to_json()["deepfool5_L2"] == {"mean": pytest.approx(0.2), "points": 2}
    lengths[0] = torch.inf
    assert margins.to_json()["deepfool5_L2"] == {"mean": None, "points": 2}
    assert "deepfool5_L2" not in Margins(margins.measures, {}).to_json()


def test_a_run_has_it_in_its_record_and_its_report(tmp_path, monkeypatch):
    monkeypatch.setitem(VERSIONS, "standard", ())  # without AutoAttack
    folder = abatis.run(tiny(tmp_path, epochs=1, eval="standard")).folder
    record = read_record(folder)
    found = record["margins"]["deepfool5_L2"]
    assert found["points"] == record["margins"]["points"] == 38
    assert found["mean"] > 0
    text = str(show_margins(Part(record["margins"])))
    assert "Mean L2 norm of 5 DeepFool steps over 38 test images" in text
    del record["margins"]["deepfool5_L2"]
    assert "5 DeepFool steps" not in str(show_margins(Part(record["margins"])))
