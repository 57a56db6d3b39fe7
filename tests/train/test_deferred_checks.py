"""Checks that the host does not read in every step: what they remember and what they stop."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from abatis import Attacked, Batch, Term
from abatis.api.randomness import Randomness
from abatis.config.option_groups import AttackConfig, OptimConfig
from abatis.errors import NotFiniteError, PluginError
from abatis.nets.net import Net
from abatis.testing import THREAT, plan_of, step_of, tiny_batch, tiny_network
from abatis.train.deferred_checks import DeferredChecks
from abatis.train.optimizer import make_optimizer
from tests.helpers import our_plugins, plugin

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal")
DATA_DEPENDENT = {"amm"}  # its rows are chosen by what the network says


def deferred_step(*names, optimizer="sgd", device="cpu", **arguments):
    module = tiny_network(10).to(device)
    net, random = Net(module), Randomness(0)
    plan = plan_of(
        *names, net=net, num_classes=10, attack=AttackConfig(steps=2), random=random, **arguments
    )
    made = make_optimizer(OptimConfig(name=optimizer), net.list_modules(), fused=True)
    return step_of(net, plan, made, THREAT, random, deferred=True)


def state(step):
    return copy.deepcopy(list(step.net.module.parameters()))


def test_the_first_broken_step_is_remembered_with_its_names():
    watch, yes, no = DeferredChecks(), torch.tensor(True), torch.tensor(False)
    assert watch.read() is None
    assert watch.note(3, {"a": yes, "b": yes}).item() == 0
    assert watch.read() is None
    assert watch.note(5, {"a": yes, "b": no}).item() == 1
    assert watch.note(6, {"a": no, "c": no}).item() == 1
    assert watch.note(7, {"a": yes, "b": yes}).item() == 1  # sticky
    assert watch.read() == (5, ["b"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_update_is_made_from_the_broken_step_on(optimizer):
    def loss(run):
        def terms(ctx):
            ce = F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none")
            return {"fine": Term(ce), "odd": Term(ce * (float("nan") if ctx.step == 2 else 1.0))}

        return terms

    step, seen = deferred_step(plugin("bad", loss=loss), optimizer=optimizer), []
    for number in range(4):
        step(tiny_batch(8, 10), number, 0, 0.0)
        seen.append(state(step))
    assert not all(torch.equal(one, other) for one, other in zip(seen[0], seen[1], strict=True))
    for later in seen[2:]:
        assert all(torch.equal(one, other) for one, other in zip(seen[1], later, strict=True))
    with pytest.raises(NotFiniteError, match="term 'odd' and the gradient not finite") as caught:
        step.check()
    assert "step 2; no update was made since" in str(caught.value)


def test_an_attacker_that_leaves_the_ball_is_named_when_it_is_read():
    bad = plugin("bad", attacker=lambda run: lambda forward, batch: Attacked(batch.x + 0.1))
    step = deferred_step(bad)
    before = state(step)
    step(tiny_batch(4, 10), 0, 0, 0.0)
    assert all(
        torch.equal(one, other)
        for one, other in zip(before, step.net.module.parameters(), strict=True)
    )
    with pytest.raises(PluginError, match="attacker 'bad' left the ball"):
        step.check()


def test_deferred_and_immediate_reading_make_the_same_update():
    weights = []
    for deferred in (False, True):
        step = deferred_step()
        step.deferred_checks = step.deferred_checks if deferred else None
        for number in range(3):
            step(tiny_batch(8, 10), number, 0, 0.0)
        step.check()
        weights.append(state(step))
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS:
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [None, *our_plugins()])
def test_the_host_reads_nothing_in_a_step(name):
    step = deferred_step(*([name] if name else []))
    step(tiny_batch(8, 10), 1, 0, 0.0)
    with Reads() as reads:
        step(tiny_batch(8, 10), 2, 0, 0.0)
    assert bool(reads.found) == (name in DATA_DEPENDENT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", [None, *sorted({*our_plugins()} - DATA_DEPENDENT)])
def test_a_step_on_a_gpu_waits_for_nothing(name):
    step, batch = deferred_step(*([name] if name else []), device="cuda"), tiny_batch(8, 10)
    batch = Batch(batch.x.cuda(), batch.y.cuda(), batch.index.cuda())
    step(batch, 1, 0, 0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batch, 2, 0, 0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    step.check()


def test_the_count_sees_the_immediate_reading():
    step = deferred_step()
    step.deferred_checks = None
    with Reads() as reads:
        step(tiny_batch(8, 10), 0, 0, 0.0)
    assert reads.found
