"""A plugin that was written for version 1.0 of the contract trains as it did."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from abatis import Attacked, Ball, Term, TrainerHooks
from abatis.testing import replay, smooth_network, tiny_batch
from tests.helpers import plugin


class Perturbation(TrainerHooks):
    """Its ``before_loss`` calls the objective as a function, as 1.0 has it."""

    def __init__(self, run):
        self.weight = next(run.net.module.parameters())
        self.judged_before = []  # a name of its own, near one that 1.1 has

    def before_loss(self, ctx, objective):
        (gradient,) = torch.autograd.grad(objective(), self.weight)
        self.added = 0.01 * gradient
        with torch.no_grad():
            self.weight.add_(self.added)

    def after_update(self, ctx):
        with torch.no_grad():
            self.weight.sub_(self.added)


def of_1_0():
    def attacker(run):
        def attack(forward, batch):
            x = batch.x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(forward(x), batch.y), x)
            ball = Ball(batch.x, run.threat)
            return Attacked(ball.climb(batch.x.clone(), gradient, run.threat.eps))

        return attack

    def loss(run):
        return lambda ctx: {
            "ce": Term(F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none"))
        }

    made = plugin("old", attacker=attacker, loss=loss, trainer=lambda run: Perturbation(run))
    made.DEFENSE_API = "1.0"
    return made


def by_hand(module, batch, lr):
    """One such step, without the engine."""
    parameters = list(module.parameters())
    x = batch.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(module(x), batch.y), x)
    x = (batch.x + 8 / 255 * gradient.sign()).clamp(0, 1)
    (first,) = torch.autograd.grad(F.cross_entropy(module(x), batch.y), parameters[0])
    with torch.no_grad():
        parameters[0].add_(0.01 * first)
    gradients = torch.autograd.grad(F.cross_entropy(module(x), batch.y), parameters)
    with torch.no_grad():
        for parameter, part in zip(parameters, gradients, strict=True):
            parameter.sub_(lr * part)
        parameters[0].sub_(0.01 * first)
    return parameters


def test_a_plugin_of_1_0_trains_as_it_did():
    optim = {"lr": 0.1, "momentum": 0, "weight_decay": 0}
    module, batch = smooth_network(10), tiny_batch(8, 10)
    (step,) = replay([of_1_0()], module, [batch], optim=optim)
    expected = by_hand(smooth_network(10), batch, 0.1)
    for found, wanted in zip(step.parameters.values(), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-13)
