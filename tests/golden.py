"""Reference values, and the tiny network that those of networks were made with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.api.context import StepContext
from abatis.api.term import Terms
from abatis.api.threat import Threat
from abatis.nets.net import Net
from abatis.testing import plan_of, total
from abatis.train.builtin.pgd import maximise
from tests.reference import reference_dir


def golden(name: str) -> Mapping[str, np.ndarray]:
    """Return the arrays of one reference file; skips the test if the folder is absent."""
    folder = reference_dir()
    if folder is None:
        pytest.skip("reference values are not here; set ABATIS_REFERENCE")
    return np.load(folder / "golden" / f"{name}.npz")


class TinyNetwork(nn.Module):
    """conv 3-4 stride 2, BN, ReLU, conv 4-8 stride 2, BN, ReLU, mean, linear: float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.fc(self.bn2(self.conv2(x)).relu().mean((2, 3)))

    def load(self, arrays: Mapping[str, np.ndarray], prefix: str = "") -> TinyNetwork:
        """Load the initial state of a reference file, in training mode."""
        parameters = dict(self.named_parameters())
        for name, tensor in self.state_dict().items():
            kind = "param" if name in parameters else "buf"
            tensor.copy_(torch.tensor(arrays[f"{prefix}init_{kind}_{name.replace('.', '_')}"]))
        return self.train()

    def largest_difference(
        self, arrays: Mapping[str, np.ndarray], prefix: str, gradients: Mapping[str, Tensor | None]
    ) -> float:
        """Return the largest absolute difference of gradients from those of a reference file."""
        found = []
        for name, gradient in gradients.items():
            expected = torch.tensor(arrays[f"{prefix}{name.replace('.', '_')}"])
            found.append(float(((0 if gradient is None else gradient) - expected).abs().max()))
        return max(found)

    def buffers_equal(self, arrays: Mapping[str, np.ndarray], prefix: str) -> bool:
        """Do the running statistics equal those of a reference file to 1e-12?"""
        return all(
            torch.allclose(
                buffer.double(),
                torch.tensor(arrays[f"{prefix}{name.replace('.', '_')}"]).double(),
                rtol=0,
                atol=1e-12,
            )
            for name, buffer in self.named_buffers()
        )


def check_logits(
    arrays: Mapping[str, np.ndarray], case: int, terms_of: Callable[[Tensor, Tensor, Tensor], Terms]
) -> Terms:
    """Compare loss and gradients in both logits with a released case; returns the terms.

    They are compared in float64, and the loss in float32 too.
    """
    y = torch.tensor(arrays["labels"][case])
    clean, adversarial = (
        torch.tensor(arrays[key][case], requires_grad=True) for key in ("logits_nat", "logits_adv")
    )
    terms = terms_of(clean, adversarial, y)
    gradients = torch.autograd.grad(total(terms), (clean, adversarial))
    assert total(terms).item() == pytest.approx(arrays["loss"][case], rel=1e-10)
    for gradient, key in zip(gradients, ("grad_logits_nat", "grad_logits_adv"), strict=True):
        assert np.abs(gradient.numpy() - arrays[key][case]).max() <= 1e-10
    in_float32 = total(terms_of(clean.detach().float(), adversarial.detach().float(), y))
    assert in_float32.item() == pytest.approx(arrays["loss_f32"][case], rel=2e-5)
    return terms


def check_network(
    file: str, kind: str, *names: str, epoch: int = 0, options: Mapping[str, Any] | None = None
) -> None:
    """Compare loss, gradients and running statistics of a composed loss with a reference file.

    kind: "fixed" or "attack", the adversarial images of the file.
    """
    arrays, prefix = golden(file), f"model_{kind}_"
    network = TinyNetwork().load(arrays, prefix)
    net = Net(network)
    plan = plan_of(*names, net=net, num_classes=10, options=options)
    x, x_adv, y = (torch.tensor(arrays[prefix + key]) for key in ("x_nat", "x_adv", "labels"))
    ctx = StepContext(
        Batch(x, y, torch.arange(8)), x_adv, {}, net, 0, epoch, 0.0, 8, plan.clean_first
    )
    loss = total(plan.terms(ctx))
    gradients = dict(
        zip(
            dict(network.named_parameters()),
            torch.autograd.grad(loss, network.parameters()),
            strict=True,
        )
    )
    assert loss.item() == pytest.approx(float(arrays[prefix + "loss"]), rel=1e-10)
    assert network.largest_difference(arrays, prefix + "grad_", gradients) <= 1e-10
    assert network.buffers_equal(arrays, prefix + "after_buf_")


def check_attack(file: str) -> None:
    """Compare ten steps of 0.007 on the cross-entropy in the ball of 0.031 with a reference file.

    They start from the file's small normal noise, with eval statistics.
    """
    arrays, prefix = golden(file), "model_attack_"
    net = Net(TinyNetwork().load(arrays, prefix))
    x, noise, y = (
        torch.tensor(arrays[prefix + key]) for key in ("x_nat", "noise_normal", "labels")
    )

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")

    with net.attack_mode():
        attacked = maximise(
            net, Ball(x, Threat.parse("Linf:0.031")), x + 0.001 * noise, y, cross_entropy, 10, 0.007
        )
    same = (attacked.x - torch.tensor(arrays[prefix + "x_adv"])).abs() < 1e-12
    assert same.double().mean() >= 0.999


def margin_network(arrays: Mapping[str, np.ndarray]) -> nn.Module:
    """Make conv 1-3, ReLU, flatten, fc 12-9, ReLU, fc 9-4 with the file's parameters: float64."""
    layers = OrderedDict(
        conv1=nn.Conv2d(1, 3, 3),
        first=nn.ReLU(),
        flat=nn.Flatten(),
        fc1=nn.Linear(12, 9),
        second=nn.ReLU(),
    )
    network = nn.Sequential(OrderedDict(**layers, fc2=nn.Linear(9, 4))).double()
    network.load_state_dict(
        {name: torch.tensor(arrays[f"param_{name}"]) for name in network.state_dict()}
    )
    return network


def linear_model(rows: Sequence[Sequence[float]]) -> nn.Module:
    """Make a network of the logits W x without bias, for numbers computed by hand."""
    weight = torch.tensor(rows, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    return nn.Sequential(nn.Flatten(), layer)
