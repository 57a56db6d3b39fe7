"""The objective of ``before_loss``: its total, and its terms before any mean."""

from __future__ import annotations

import pytest
import torch

from abatis import Batch, Net, Randomness, Term, TrainerHooks
from abatis.api.randomness import seeded
from abatis.system import distributed
from abatis.testing import THREAT, RowShare, plan_of, smooth_network, step_of, tiny_batch, total
from abatis.testing.contract.lockstep import Lockstep
from tests.frontier import Tiny, frontier, is_close, load, tensor_of
from tests.helpers import plugin

NO_ATTACK = {"attacker": "none"}


def observing(found):
    """A plugin with a term that has no value per sample, which notes the objective."""

    class Notes(TrainerHooks):
        def before_loss(self, ctx, objective):
            terms = objective.terms()
            share = total(terms) * (len(ctx.batch) / ctx.global_size)
            gradients = torch.autograd.grad(share, list(ctx.net.module.parameters()))
            found.append((objective().detach(), share.detach(), terms, gradients))

    def regularizer(run):
        weight = next(run.net.module.parameters())
        return lambda ctx: {"norm": Term(weight.square().sum(), weight=0.25)}

    return plugin("observing", trainer=lambda run: Notes(), regularizer=regularizer)


def make_one_step(found, accumulate=1):
    net, random, rows = Net(smooth_network(10)), Randomness(0), distributed.rows_of(7)
    plan = plan_of("trades", observing(found), net=net, num_classes=10, random=random)
    optimizer = torch.optim.SGD(net.module.parameters(), lr=0.1)
    step = step_of(net, plan, optimizer, THREAT, random, accumulate=accumulate)
    with seeded(0, "test"):
        return step(tiny_batch(7, 10).rows(rows), 0, 0, 0.0, RowShare(rows.start, 7))


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_terms_have_a_value_of_every_row_and_add_up_to_the_objective(accumulate):
    found = []
    result = make_one_step(found, accumulate)
    ((whole, share, terms, _),) = found
    assert terms["ce"].value.shape == terms["kl"].value.shape == (7,)
    assert terms["observing/norm"].value.shape == ()
    assert (terms["kl"].weight, terms["kl"].reweight) == (6.0, True)
    for value in (whole, share):
        assert value.item() == pytest.approx(result.total.item(), rel=1e-12)


def test_micro_batches_and_processes_have_the_rows_of_one():
    alone, micro, shares = [], [], []
    make_one_step(alone)
    make_one_step(micro, accumulate=2)

    def play():
        found = []
        make_one_step(found)
        return found[0]

    shares = Lockstep(2).play(play)
    (_, _, terms, gradients) = alone[0]
    rows = torch.cat([part[2]["kl"].value for part in shares])
    assert torch.allclose(terms["kl"].value, micro[0][2]["kl"].value, rtol=0, atol=1e-12)
    assert torch.allclose(terms["kl"].value, rows, rtol=0, atol=1e-12)
    played = zip(*(part[3] for part in shares), strict=True)
    for whole, cut, parts in zip(gradients, micro[0][3], played, strict=True):
        assert torch.allclose(whole, cut, rtol=0, atol=1e-12)
        assert torch.allclose(whole, sum(parts), rtol=0, atol=1e-12)


def test_the_buffers_stay_as_they_are():
    arrays = frontier("rwp")
    module = load(Tiny(), arrays, "rwp_net_")
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    after = []

    class Asks(TrainerHooks):
        def before_loss(self, ctx, objective):
            objective.terms()
            after.extend(torch.equal(before[name], b) for name, b in module.named_buffers())

    take_step(module, arrays, lambda run: Asks())
    assert after
    assert all(after)


class RobustWeightPerturbation(TrainerHooks):
    """RWP (Yu et al., IJCAI 2022): ten ascent steps of the weights on the samples below ``c``."""

    def __init__(self, run, c, gamma):
        named = run.net.module.named_parameters()
        self.weights = [part for name, part in named if part.dim() > 1 and "weight" in name]
        self.c, self.gamma = c, gamma
        self.diff = []

    def before_loss(self, ctx, objective):
        start = [weight.detach().clone() for weight in self.weights]
        summed = [torch.zeros_like(weight) for weight in start]
        norm = torch.stack([weight.square().sum() for weight in start]).sum().sqrt()
        self.diff = summed
        for _ in range(10):
            self._move(start, self.diff)
            value = objective.terms()["ce"].value  # (B,)
            loss = torch.where(value.detach() < self.c, value, 0).sum() / ctx.global_size
            own = torch.autograd.grad(loss, self.weights)
            gradients = ctx.sum_over_processes(own)
            summed = [u + g for u, g in zip(summed, gradients, strict=True)]
            length = torch.stack([part.square().sum() for part in summed]).sum().sqrt()
            self.diff = [part * norm / length for part in summed]
        self._move(start, [torch.zeros_like(part) for part in start])

    @torch.no_grad()
    def _move(self, start, diff):
        for weight, origin, part in zip(self.weights, start, diff, strict=True):
            weight.copy_(origin + self.gamma * part)


def take_step(module, arrays, make):
    net = Net(module)
    plan = plan_of(plugin("rwp", trainer=make), net=net, num_classes=10, use=NO_ATTACK)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    step = step_of(net, plan, optimizer, THREAT, Randomness(0))
    x, y = tensor_of(arrays, "rwp_x"), tensor_of(arrays, "rwp_y")
    step(Batch(x, y, torch.arange(8)), 0, 0, 0.0)


def test_the_released_robust_weight_perturbation_is_a_plugin_of_the_terms():
    arrays = frontier("rwp")
    module, made = load(Tiny(), arrays, "rwp_net_"), []

    def make(run):
        made.append(RobustWeightPerturbation(run, float(arrays["rwp_min_loss"]), 0.01))
        return made[0]

    take_step(module, arrays, make)
    names = ("conv1", "conv2", "fc")
    for name, found in zip(names, made[0].diff, strict=True):
        assert is_close(found, tensor_of(arrays, f"rwp_diff_{name}.weight")), name
