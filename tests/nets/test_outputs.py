"""Networks that return more than logits, or in another precision: judged as one function."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from abatis.errors import UsageError
from abatis.nets.copying import copy_module
from abatis.nets.outputs import adapt_images, adapt_outputs, unwrap_parallel

X = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Returns what ``change`` makes of its logits (B, K)."""

    def __init__(self, change, classes=4):
        super().__init__()
        self.fc = nn.Linear(12, classes)
        self.change = change

    def forward(self, x):
        return self.change(self.fc(x.flatten(1)), x)


class Pair(NamedTuple):
    logits: torch.Tensor
    aux: torch.Tensor


@dataclass
class Output:
    logits: torch.Tensor
    hidden: str = ""


def adapt(net, asked=None, classes=4):
    notes = adapt_outputs(net, net(X), len(X), classes, asked, "Net")
    return net(X), notes


@pytest.mark.parametrize(
    "change",
    [
        lambda z, x: (z, x),
        lambda z, x: [z, x.flatten(1)],
        lambda z, x: (x.flatten(1), z),
        lambda z, x: {"logits": z, "other": z + 1},
        lambda z, x: {"out": z, "maps": x},
        lambda z, x: Output(z),
        lambda z, x: z[:, :, None, None],
        lambda z, x: z[:, :, None],
    ],
)
def test_the_logits_are_found_and_the_names_of_tensors_stay(change):
    net = Net(change)
    names = list(net.state_dict())
    logits, _ = adapt(net)
    assert torch.equal(logits, net.fc(X.flatten(1)))
    assert list(net.state_dict()) == names
    assert torch.equal(copy.deepcopy(net)(X), logits)


def test_plain_logits_get_no_hook():
    net = Net(lambda z, x: z)
    adapt(net)
    assert not net._forward_hooks


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z, x: (z, z + 1), "tuple of 0: (2, 4), 1: (2, 4): several"),
        (lambda z, x: Pair(z, z + 1), "Pair of 0: (2, 4), 1: (2, 4): several"),
        (lambda z, x: {"a": z, "b": z}, "a: (2, 4), b: (2, 4): several"),
        (lambda z, x: [x, x], "not logits"),
        (lambda z, x: x, "a tensor (2, 3, 2, 2), not logits"),
        (lambda z, x: z[:1], "not logits"),
        (lambda z, x: z.sum(), "not logits"),
        (lambda z, x: "cat", "returns a str, not logits"),
        (lambda z, x: z[:, :1], "one output, and the data have 4 classes"),
    ],
)
def test_what_could_mean_several_things_is_refused(change, words):
    with pytest.raises(UsageError) as caught:
        adapt(Net(change))
    assert words in str(caught.value)


def test_an_output_that_was_asked_for():
    net = Net(lambda z, x: (z, z + 1))
    assert torch.equal(adapt(net, "1")[0], net.fc(X.flatten(1)) + 1)
    table = Net(lambda z, x: {"a": z, "b": z + 1})
    assert torch.equal(adapt(table, "b")[0], table.fc(X.flatten(1)) + 1)
    for asked in ("c", "2"):
        with pytest.raises(UsageError, match=f"--output {asked}"):
            adapt(Net(lambda z, x: (z, z + 1)), asked)


@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_becomes_two_with_the_same_cross_entropy(flat):
    z = torch.tensor([-3.0, 2.0])
    net = Net(lambda _, x: z if flat else z[:, None])
    logits, (note,) = adapt(net, classes=2)
    torch.testing.assert_close(logits, torch.tensor([[1.5, -1.5], [-1.0, 1.0]]))
    y = torch.tensor([0, 1])
    torch.testing.assert_close(
        nn.functional.cross_entropy(logits, y),
        nn.functional.binary_cross_entropy_with_logits(z, y.float()),
    )
    assert "class 1 where z > 0" in note


def test_one_probability_is_not_taken_for_a_logit():
    net = Net(lambda z, x: torch.tensor([[0.2], [0.9]]))
    with pytest.raises(UsageError, match=r"lies in \[0, 1\]: it may be a probability"):
        adapt(net, classes=2)
    assert adapt(net, "sigmoid", classes=2)[0].shape == (2, 2)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_take_float32_images(kind):
    net = Net(lambda z, x: z).to(kind)
    notes = []
    adapt_images(net, notes)
    logits, _ = adapt(net)
    assert logits.dtype == torch.float32
    assert str(kind).removeprefix("torch.") in notes[0]
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[:, 0].sum(), x)
    assert gradient.dtype == torch.float32
    assert gradient.abs().sum() > 0


def test_wrappers_are_taken_off():
    net = Net(lambda z, x: z)
    found, notes = unwrap_parallel(torch.compile(nn.DataParallel(net)))
    assert found is net
    assert len(notes) == 2


def test_a_copy_shares_only_what_cannot_be_copied():
    net = Net(lambda z, x: z)
    net.stream = (n for n in range(3))
    net.options = {"list": [1]}
    with pytest.raises(TypeError):
        copy.deepcopy(net)
    twin = copy_module(net)
    assert twin.stream is net.stream
    assert twin.options["list"] is not net.options["list"]
    assert twin.fc.weight is not net.fc.weight
    assert torch.equal(twin(X), net(X))
    normed = nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)))
    normed(torch.ones(1, 2))
    torch.testing.assert_close(copy_module(normed)(torch.ones(1, 2)), normed(torch.ones(1, 2)))
