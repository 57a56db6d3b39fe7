"""What a run chooses for its forward passes, and that a compiled one computes the same."""

from __future__ import annotations

import json
import re

import pytest
import torch

import abatis
from abatis.errors import UsageError
from abatis.nets.backbones import build
from abatis.nets.net import Net
from tests.helpers import tiny


def engine(tmp_path, **changes):
    folder = abatis.run(tiny(tmp_path, limit=40, epochs=1, **changes)).folder
    rows = json.loads((folder / "plan.json").read_text())
    return next(row["options"] for row in rows if row["role"] == "engine")


def test_the_plan_says_what_was_chosen(tmp_path):
    found = engine(tmp_path)
    instructions = torch.backends.cpu.get_cpu_capability()
    device = found.pop("device")
    assert re.fullmatch(rf"CPU, {instructions}, \d+ threads, \d+ GiB", device)
    assert found == {
        "build": "CPU only" if torch.version.cuda is None else f"CUDA {torch.version.cuda}",
        "layout": "channels_last",
        "norms folded": "4 of 4",
        "attack": "float32",
        "step": "float32",
        "compile": "none",
    }


@pytest.mark.parametrize(
    ("choice", "captured"),
    [
        ("attack", "attack: each of its forward passes by itself"),
        ("both", "attack and step: each forward pass by itself"),
    ],
)
def test_the_plan_says_what_is_compiled(tmp_path, monkeypatch, choice, captured):
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    assert engine(tmp_path, compile=choice)["compile"] == captured


def test_each_choice_can_be_changed(tmp_path):
    found = engine(tmp_path, attack={"steps": 1, "precision": "bf16"}, fold=False)
    assert found["norms folded"] == "0 of 4"
    assert found["attack"] == "bf16"
    assert found["step"] == "float32"


def test_the_precision_of_the_attack_is_that_of_the_run_unless_given():
    net = Net(torch.nn.Flatten(), "bf16")
    assert net.attack_precision == "bf16"
    net = Net(
        build("cnn", num_classes=10, channels=1, image_size=8, mean=[0.5], std=[0.5]),
        "float32",
        "bf16",
    )
    x = torch.rand(4, 1, 8, 8)
    plain = net(x)
    with net.attack_mode():
        attacked = net(x)
    assert attacked.dtype == torch.float32
    assert not torch.equal(attacked, plain)
    assert net.precision == "float32"


@pytest.mark.parametrize("choice", ["step", "both"])
def test_a_step_that_is_differentiated_twice_is_not_compiled(choice, tmp_path):
    with pytest.raises(
        UsageError, match="cannot be differentiated twice, as emr needs it"
    ) as caught:
        abatis.run(tiny(tmp_path, plugin=["emr"], compile=choice, dry_run=True))
    assert "--compile attack" in str(caught.value)


@pytest.mark.slow
def test_compiled_forwards_compute_the_same():
    """Attack and training forward of one net, compiled and not, in float32."""
    x, y = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net = Net(
            build(
                "resnet8", num_classes=10, channels=3, image_size=16, mean=[0.5] * 3, std=[0.25] * 3
            )
        )
        net.tune(x)
        net.compile(attack=compiled, step=compiled)
        for _ in range(2):  # the second time with other weights, in the same folded tensors
            point = x.clone().requires_grad_()
            with net.attack_mode():
                (gradient,) = torch.autograd.grad(
                    torch.nn.functional.cross_entropy(net(point), y), point
                )
            logits = net(x)
            torch.nn.functional.cross_entropy(logits, y).backward()
            with torch.no_grad():
                for parameter in net.module.parameters():
                    parameter.sub_(0.1 * parameter.grad)
                    parameter.grad = None
        found.append((gradient, logits.detach()))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
