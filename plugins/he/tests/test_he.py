"""Head, losses and whole training steps of hypersphere embedding against the authors' code."""

from __future__ import annotations

import pytest
import torch
from tests.frontier import frontier, is_close, load, tensor_of
from torch import Tensor, nn

from abatis import Batch, UsageError
from abatis.testing import loss_terms, network_of, replay, tiny_batch, tiny_network, total
from abatis_he.head import CosineHead

FORMS = {
    "pgd_he": {},
    "trades_he": {"form": "trades", "s": 15.0},
    "alp_he": {"form": "alp", "s": 20.0, "m": 0.3, "beta": 0.5},
}


class Block(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, and a shortcut from behind the first ReLU if it widens."""

    def __init__(self, width: int, wider: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(wider)
        self.conv1 = nn.Conv2d(width, wider, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(wider, wider, 3, 1, 1, bias=False)
        if width != wider:
            self.convShortcut = nn.Conv2d(width, wider, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(x).relu()
        around = self.convShortcut(out) if hasattr(self, "convShortcut") else x
        return around + self.conv2(self.bn2(self.conv1(out)).relu())


class Group(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(Block(*sizes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-10-1 as in TRADES' file, which normalises inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1, self.block2, self.block3 = Group(16, 16, 1), Group(16, 32, 2), Group(32, 64, 2)
        self.bn1, self.fc = nn.BatchNorm2d(64), nn.Linear(64, 10, bias=False)
        self.double()
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
            for values in ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.std
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.bn1(x).relu().mean((2, 3)))


@pytest.mark.parametrize("s", [10, 15])
@pytest.mark.parametrize("m", [0, 2])
def test_head_and_loss_equal_the_released_ones(s, m):
    arrays, prefix = frontier("he"), f"s{s}_m{m}_"
    features = tensor_of(arrays, f"{prefix}features").requires_grad_()
    cos = CosineHead(tensor_of(arrays, f"{prefix}weight"), s)(features) / s
    assert is_close(cos.detach(), arrays[f"{prefix}cos"])
    terms = loss_terms(
        "he",
        logits_clean=cos * s,
        logits_adv=cos * s,
        y=tensor_of(arrays, f"{prefix}labels"),
        options={"s": s, "m": m / 10},
    )
    loss = total(terms)
    assert is_close(loss.detach(), arrays[f"{prefix}loss"])
    gradients = torch.autograd.grad(loss, (cos, features))
    for gradient, name in zip(gradients, ("cos", "features"), strict=True):
        assert is_close(gradient, arrays[f"{prefix}grad_{name}"])


@pytest.mark.parametrize("form", FORMS)
def test_the_released_step(form):
    """Attack, loss, and the gradients of the first and the last layer."""
    arrays, prefix, gradients = frontier("he"), f"{form}_", []
    module = load(WideResNet(), arrays, f"{prefix}init_")
    module = network_of("he", module=module, num_classes=10, options=FORMS[form])
    assert is_close(module.fc.weight.detach(), arrays[f"{prefix}fc_weight_after"])
    module.fc.weight.register_hook(gradients.append)
    before = module.conv1.weight.detach().clone()
    x, y = tensor_of(arrays, f"{prefix}x"), tensor_of(arrays, f"{prefix}y")
    (step,) = replay(
        "he",
        module,
        [Batch(x, y, torch.arange(4))],
        options=FORMS[form],
        threat="Linf:0.031",
        attack={"steps": 2, "step_size": "0.007", "start": "normal"},
        optim={"lr": 1.0, "momentum": 0, "weight_decay": 0},
        start=[0.001 * tensor_of(arrays, f"{prefix}noise")],
    )
    same = (step.x_adv - tensor_of(arrays, f"{prefix}x_adv")).abs() <= 1e-9
    assert same.double().mean() >= 0.999
    assert is_close(step.total, arrays[f"{prefix}loss"])
    assert is_close(sum(gradients), arrays[f"{prefix}fc_grad"])
    assert is_close(before - step.parameters["conv1.weight"], arrays[f"{prefix}conv1_grad"])


def test_by_hand():
    """h = (3, 4), rows (2, 0) and (0, 5): cosines 3/5 and 4/5, whatever the lengths are."""
    head = CosineHead(torch.tensor([[2.0, 0.0], [0.0, 5.0]]), 10.0)
    features = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(head(features), torch.tensor([[6.0, 8.0]]))
    terms = loss_terms(
        "he", logits_clean=head(features), logits_adv=head(features), y=torch.tensor([1])
    )
    # the margin takes 10 * 0.2 off the true logit: 6 against 6
    assert terms["he"].value.item() == pytest.approx(torch.tensor(2.0).log().item(), rel=1e-6)


def test_the_rows_keep_their_length_and_bias_is_gone():
    module = network_of("he", module=tiny_network(10), num_classes=10)
    head = module[-1]
    assert isinstance(head, CosineHead)
    assert head.bias is None
    replay("he", module, [tiny_batch(8, 10)] * 3)
    assert torch.allclose(head.weight.norm(dim=1), torch.ones(10).double(), atol=1e-12)


def test_a_network_without_such_a_layer_is_refused():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.Linear(10, 7))
    with pytest.raises(UsageError, match="no linear layer with 10 outputs"):
        network_of("he", module=nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()), num_classes=10)
    assert isinstance(network_of("he", module=module, num_classes=7)[2], CosineHead)
