"""The distillation of KD-SWA against the authors' code, by hand, and in a run."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from tests.frontier import frontier, is_close, tensor_of
from tests.helpers import tiny

from abatis import UsageError, run
from abatis.testing import total
from abatis_seat import SeatConfig
from abatis_seat.distillation import DistillationLoss


def terms_of(logits, y, standard, robust, **options):
    """The terms for given logits: of the network, and of each teacher."""
    loss = DistillationLoss(lambda x: standard, lambda x: robust, SeatConfig(**options))
    return loss(SimpleNamespace(logits_adv=logits, x_adv=None, batch=SimpleNamespace(target=y)))


def test_equals_the_released_code():
    arrays = frontier("averaging")
    logits = tensor_of(arrays, "kd_logits").requires_grad_()
    y, *teachers = (tensor_of(arrays, f"kd_{name}") for name in ("labels", "teacher1", "teacher2"))
    terms = terms_of(logits, y, *teachers)
    for name, key in (("kd_standard", "kd1"), ("kd_robust", "kd2")):
        assert is_close(terms[name].value.mean().detach(), arrays[f"kd_{key}"])
    loss = total(terms)
    assert is_close(loss.detach(), arrays["kd_loss"])
    assert is_close(torch.autograd.grad(loss, logits)[0], arrays["kd_grad"])


def test_by_hand():
    """T = 2, z = (log 9, 0): softened p = (3/4, 1/4); teachers softened to (1/2, 1/2), (3/4, 1/4).

    H = -4 (1/2 log 3/4 + 1/2 log 1/4) and -4 (3/4 log 3/4 + 1/4 log 1/4).
    """
    z = torch.tensor([[math.log(9), 0.0]], dtype=torch.float64)
    terms = terms_of(z, torch.tensor([0]), torch.zeros_like(z), z)
    assert terms["kd_standard"].value.item() == pytest.approx(
        -2 * (math.log(0.75) + math.log(0.25))
    )
    assert terms["kd_robust"].value.item() == pytest.approx(-3 * math.log(0.75) - math.log(0.25))
    assert terms["ce"].value.item() == pytest.approx(-math.log(0.9))
    assert [term.weight for term in terms.values()] == [0.3, 0.1, 0.6]


@pytest.mark.parametrize(("given", "missing"), [("standard", "robust"), ("robust", "standard")])
def test_one_teacher_alone_is_refused(given, missing):
    with pytest.raises(UsageError, match=f"--seat.{given} alone") as caught:
        SeatConfig(**{given: "runs/x"})
    assert f"give --seat.{missing}" in caught.value.fix


def test_a_run_distils_from_two_runs_and_judges_the_average(tmp_path):
    clean = run(tiny(tmp_path, name="clean", use={"attacker": "none"})).folder
    robust = run(tiny(tmp_path, name="robust")).folder
    options = {"standard": str(clean), "robust": str(robust), "average": "swa", "start": 0}
    done = run(tiny(tmp_path, name="done", plugin=["seat"], options={"seat": options})).folder
    rows = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        parts = 0.3 * row["ce"] + 0.1 * row["kd_standard"] + 0.6 * row["kd_robust"]
        assert row["loss"] == pytest.approx(parts, rel=1e-4)
    assert (done / "weights-averaged.safetensors").is_file()


def test_a_teacher_that_does_not_fit_is_refused_with_its_option(tmp_path):
    """Of other classes, and one that is not there; before there is a run folder."""
    (tmp_path / "wide.py").write_text(
        "from torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 100))\n"
    )
    for standard, what in ((f"{tmp_path / 'wide.py'}:make", "100 outputs, and 10"), ("no", "'no'")):
        options = {"standard": standard, "robust": "no"}
        with pytest.raises(UsageError, match=what) as found:
            run(tiny(tmp_path, name="run", plugin=["seat"], seat=options))
        assert found.value.where == f"--seat.standard {standard}"
    assert not (tmp_path / "run").exists()
