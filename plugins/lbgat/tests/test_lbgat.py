"""Whole training steps of student and teacher against the authors' code, and a value by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.frontier import Tiny, frontier, is_close, load, tensor_of
from torch import nn

from abatis import Batch, Net, StepContext
from abatis.testing import plan_of, replay
from abatis_lbgat.loss import LbgatLoss

TEACHER = """
from tests.frontier import Tiny, frontier, load


def make(num_classes):
    return load(Tiny(), frontier("lbgat"), "{prefix}teacher_")
"""


@pytest.mark.parametrize("beta", [0, 6])
@pytest.mark.parametrize("steps", [0, 10])
def test_the_released_step(beta, steps, tmp_path):
    """Images, loss, gradients of both networks, and their running statistics."""
    arrays, prefix = frontier("lbgat"), f"beta{beta}_s{steps}_"
    student = load(Tiny(), arrays, f"{prefix}student_")
    (tmp_path / "teacher.py").write_text(TEACHER.format(prefix=prefix), encoding="utf-8")
    x, y = tensor_of(arrays, f"{prefix}x"), tensor_of(arrays, f"{prefix}y")
    (step,) = replay(
        "lbgat",
        student,
        [Batch(x, y, torch.arange(len(y)))],
        options={"beta": beta, "teacher": f"{tmp_path / 'teacher.py'}:make"},
        threat="Linf:0.031",
        attack={"steps": steps, "step_size": "0.007", "start": "normal"},
        optim={"lr": 1.0, "momentum": 0, "weight_decay": 0},
        start=[0.001 * tensor_of(arrays, f"{prefix}noise")],
    )
    same = (step.x_adv - tensor_of(arrays, f"{prefix}x_adv")).abs() <= 1e-9
    assert same.double().mean() >= 0.999
    assert is_close(step.total, arrays[f"{prefix}loss"])
    student_after = {**step.parameters, **step.buffers}
    for who, after in (("student", student_after), ("teacher", step.auxiliaries["lbgat"])):
        for name, value in after.items():
            if (key := f"{prefix}{who}_grad_{name}") in arrays:
                before = tensor_of(arrays, f"{prefix}{who}_{name}")
                assert is_close(before - value, arrays[key]), key
            else:
                assert is_close(value, arrays[f"{prefix}{who}_after_{name}"]), (who, name)


def test_by_hand():
    """Two classes: logits (1, 0) at x', (0, 0) at x, and (3, 2) of the teacher."""
    net = Net(nn.Linear(1, 1))
    ctx = StepContext(
        Batch(torch.zeros(1, 1, 1, 1), torch.tensor([1]), torch.tensor([0])),
        torch.zeros(1, 1, 1, 1),
        {},
        net,
        step=0,
        epoch=0,
        progress=0.0,
        global_size=1,
    )
    ctx.__dict__.update(
        logits_adv=torch.tensor([[1.0, 0.0]]), logits_clean=torch.tensor([[0.0, 0.0]])
    )
    terms = LbgatLoss(lambda x: torch.tensor([[3.0, 2.0]]), 6.0)(ctx)
    assert terms["mse"].value.item() == pytest.approx((4 + 4) / 2)
    assert terms["ce"].value.item() == pytest.approx(F.softplus(torch.tensor(1.0)).item())
    # log 1/2 - (log sigmoid(1) + log sigmoid(-1)) / 2
    kl = 0.5 * (F.softplus(torch.tensor(-1.0)) + F.softplus(torch.tensor(1.0))).item()
    assert terms["kl"].value.item() == pytest.approx(kl - torch.tensor(2.0).log().item(), rel=1e-6)
    assert terms["kl"].weight == 6


def test_the_teacher_is_trained_beside_the_network():
    net = Net(Tiny().train())
    plan_of("lbgat", net=net, num_classes=10, options={"teacher": "cnn"})
    assert list(net.auxiliaries) == ["lbgat"]
    assert net.auxiliaries["lbgat"].module.training
    assert len(net.list_parameters()) == len(list(net.module.parameters())) + 4
