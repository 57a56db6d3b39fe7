"""Margins as a record holds them, and counts by class."""

from __future__ import annotations

import json

import pytest
import torch

from abatis.evaluate.margins import (
    Margins,
    count_per_class,
)


def test_json_of_a_hand_made_example():
    """Five points and one without a boundary: mean 1, quantiles between the sorted ones."""
    inf = torch.inf
    distances = torch.tensor([0, 0.5, 1, 1.5, 2, inf]).double()
    margins = Margins(
        {
            "logit": torch.tensor([-1, 0, 1, 2, 3, 19]).double(),
            "input_L2": distances,
            "effective_Linf": torch.full((6,), -inf),
        },
        {"L2": 0.25, "Linf": inf},
        torch.tensor([-1, -0.5, -0.5, 0.25, 18.5, torch.nan]).double(),
    )
    record = json.loads(json.dumps(margins.to_json(), allow_nan=False))
    logit = {"0.05": -0.75, "0.25": 0.25, "0.5": 1.5, "0.75": 2.75, "0.95": 15.0}
    pixel = {"0.05": 0.1, "0.25": 0.5, "0.5": 1.0, "0.75": 1.5, "0.95": 1.9}
    assert record["points"] == 6
    assert record["measures"] == {
        "logit": {"unit": "logits", "mean": 4.0, "min": -1.0, "quantiles": pytest.approx(logit)},
        "input_L2": {
            "unit": "L2, pixels in [0, 1]",
            "mean": 1.0,
            "min": 0.0,
            "quantiles": pytest.approx(pixel),
        },
        "effective_Linf": {
            "unit": "Linf, pixels in [0, 1]",
            "mean": None,
            "min": None,
            "quantiles": dict.fromkeys(pixel),
        },
    }
    assert (record["rho_adv_L2"], record["rho_adv_Linf"]) == (0.25, None)
    assert record["histogram"] == {
        "measure": "logit",
        "edges": [float(edge) for edge in range(-1, 20)],
        "clean": [1, 1, 1, 1, 1, *[0] * 14, 1],
        "adversarial": [3, 1, *[0] * 17, 1],
    }
    assert record["unreached"] == {"logit": 0, "input_L2": 1, "effective_Linf": 6, "adversarial": 1}


def test_counts_by_class():
    y, clean = torch.tensor([0, 2, 2, 0, 2]), torch.tensor([True, True, False, True, True])
    robust = torch.tensor([False, True, False, True, False])
    assert count_per_class(y, clean, robust, 4) == {
        "n": [2, 0, 3, 0],
        "clean": [2, 0, 2, 0],
        "robust": [1, 0, 1, 0],
    }
