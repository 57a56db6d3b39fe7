"""Attacks and weights against the authors' code, and what a step does in several norms."""

from __future__ import annotations

import pytest
import torch
from tests.frontier import Tiny, frontier, is_close, load, tensor_of
from tests.helpers import tiny

from abatis import Batch, Net, UsageError, run
from abatis.testing import plan_of, replay, tiny_batch, tiny_network
from abatis_multi_norm.attack import weigh_threats

NORMS = {"also_train": ["L1:2"]}


def attack(threat, steps, arrays, prefix):
    module = load(Tiny(), arrays, f"{prefix}net_")
    x, y = tensor_of(arrays, f"{prefix}x"), tensor_of(arrays, f"{prefix}y")
    (step,) = replay(
        "multi-norm",
        module,
        [Batch(x, y, torch.arange(len(y)))],
        threat=threat,
        attack={"steps": steps, "start": "none"},
        optim={"lr": 1e-3},
    )
    return step


@pytest.mark.parametrize("case", ["Linf_2", "Linf_10", "L2_10", "L1_10", "L1_30"])
def test_the_attack_is_the_released_one(case):
    arrays, prefix = frontier("multinorm"), f"apgd_{case}_"
    norm, steps = case.split("_")
    step = attack(f"{norm}:{float(arrays[f'{prefix}eps'])}", int(steps), arrays, prefix)
    same = (step.x_adv - tensor_of(arrays, f"{prefix}x_best")).abs() <= 1e-9
    assert same.double().mean() >= 0.999
    assert torch.equal(step.info["survived"], tensor_of(arrays, f"{prefix}acc"))
    assert is_close(step.info["loss"], arrays[f"{prefix}loss_best"], 1e-8)


def test_the_weights_are_the_released_ones():
    arrays = frontier("multinorm")
    rows = zip(*(arrays[f"sampling_{name}"] for name in ("correct", "total")), strict=True)
    found = [weigh_threats(torch.tensor(right), torch.tensor(seen)) for right, seen in rows]
    assert is_close(torch.stack(found), arrays["sampling_weights"])


def test_a_batch_is_attacked_in_one_norm_and_both_are_used():
    batches = [tiny_batch(8, 10)] * 6
    steps = replay("multi-norm", tiny_network(10), batches, attack={"steps": 2}, **NORMS)
    numbers = [step.info["threat"].tolist() for step in steps]
    assert all(len(set(number)) == 1 for number in numbers)
    assert {number[0] for number in numbers} == {0, 1}
    for step, number in zip(steps, numbers, strict=True):
        delta = (step.x_adv - batches[0].x).abs().flatten(1)
        inside = delta.sum(1) <= 2 + 1e-9 if number[0] else delta.amax(1) <= 8 / 255 + 1e-9
        assert inside.all()


def test_max_keeps_the_larger_loss():
    options, batch = {"choice": "max"}, [tiny_batch(8, 10)]
    both = replay(
        "multi-norm", tiny_network(10), batch, options=options, attack={"steps": 2}, **NORMS
    )[0]
    alone = [
        replay("multi-norm", tiny_network(10), batch, threat=threat, attack={"steps": 2})[0]
        for threat in ("Linf:8/255", "L1:2")
    ]
    losses = torch.stack([step.info["loss"] for step in alone])
    assert torch.equal(both.info["loss"], losses.amax(0))
    assert torch.equal(both.info["threat"], losses.argmax(0))


@pytest.mark.parametrize(("further", "notes"), [([], 1), (["L2:1"], 0)])
def test_a_run_with_one_threat_says_so(tmp_path, capsys, further, notes):
    config = {"plugin": ["multi-norm"], "also_train": further, "dry_run": True, "quiet": False}
    run(tiny(tmp_path, **config))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("this run has one: add --also-train L2:0.5") == notes


def test_a_plugin_that_knows_one_threat_is_refused():
    with pytest.raises(UsageError, match="the attack of 'trades' knows one"):
        plan_of("trades", net=Net(tiny_network(10)), num_classes=10, **NORMS)
    with pytest.raises(UsageError, match="the attack of 'pgd' knows one"):
        plan_of(net=Net(tiny_network(10)), num_classes=10, **NORMS)
