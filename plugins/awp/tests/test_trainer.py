"""Weight perturbation against the released code, by hand, beside other methods, and how it leaves
the weights.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.golden import golden
from tests.helpers import plugin
from tests.train.test_step import make_step, plain_network, weights
from torch import nn

from abatis import Batch, Net, NotFiniteError, Randomness, StepContext, Term, TrainerHooks
from abatis.testing import THREAT, add_averaging, plan_of, step_of, tiny_batch, tiny_network
from abatis_awp import AwpConfig
from abatis_awp.trainer import WeightPerturbation

NO_ATTACK = {"attacker": "none"}


class ConvolutionNormLinear(nn.Module):
    """The network of the reference values."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Linear(144, 5),
        )
        self.double()

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).tanh().flatten(1))


class Spy(TrainerHooks):
    """Sees the weights that the loss is computed at, and the gradient of the update."""

    def before_loss(self, ctx, objective):
        self.perturbed = copy.deepcopy(ctx.net.module.state_dict())

    def after_update(self, ctx):
        self.gradients = {
            name: parameter.grad.clone() for name, parameter in ctx.net.module.named_parameters()
        }


def test_equals_the_released_code():
    """Three steps of SGD with momentum and weight decay: weights that the loss sees, gradients,
    loss, and the state behind.
    """
    arrays, module, spy = golden("sovr_awp_at"), ConvolutionNormLinear(), Spy()
    module.load_state_dict(
        {name: torch.tensor(arrays[f"init_{name}"]) for name in module.state_dict()}
    )
    plan = plan_of(
        "awp",
        plugin("spy", trainer=lambda run: spy),
        net=Net(module),
        num_classes=5,
        use=NO_ATTACK,
        options={"awp": {"gamma": float(arrays["gamma"])}},
    )
    settings = {name: float(arrays[name]) for name in ("lr", "momentum", "weight_decay")}
    step = step_of(
        Net(module), plan, torch.optim.SGD(module.parameters(), **settings), THREAT, Randomness(0)
    )
    for number in range(3):
        x, y = (torch.tensor(arrays[f"step{number}_{name}"]) for name in ("x_adv", "y"))
        before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        result = step(Batch(x, y, torch.arange(6)), number, 0, 0.0)
        assert result.total.item() == pytest.approx(float(arrays[f"step{number}_loss"]), rel=1e-12)
        seen = {"perturbed": spy.perturbed, "grad": spy.gradients, "after": module.state_dict()}
        scaled = ("conv.weight", "fc.weight")
        seen["diff"] = {
            name: (spy.perturbed[name] - before[name]) / float(arrays["gamma"]) for name in scaled
        }
        for what, state in seen.items():
            for name, value in state.items():
                expected = torch.tensor(arrays[f"step{number}_{what}_{name}"])
                assert torch.allclose(value, expected, rtol=0, atol=1e-12), (
                    f"step {number}: {what} of {name}"
                )


def context(epoch=0, progress=0.0):
    return StepContext(None, None, {}, None, step=0, epoch=epoch, progress=progress, global_size=0)


def test_by_hand():
    """||w|| = 5, the gradient points along the second weight: with gamma 0.5 it grows by 2.5.
    Biases and frozen stay.
    """
    layer, frozen = nn.Linear(2, 1), nn.Linear(2, 1).requires_grad_(False)
    layer.weight.data = torch.tensor([[3.0, 4.0]])
    expected = layer.bias.item(), frozen.weight.tolist()
    hooks = WeightPerturbation(AwpConfig(gamma=0.5), nn.ModuleList([layer, frozen]))
    hooks.before_loss(
        context(), lambda: 7 * layer.weight[0, 1] + layer.bias.sum() + frozen.weight.sum()
    )
    assert layer.weight.tolist() == [[3.0, 6.5]]
    layer.weight.data += 1  # the update
    hooks.after_update(context())
    assert layer.weight.tolist() == [[4.0, 5.0]]
    assert (layer.bias.item(), frozen.weight.tolist()) == expected
    assert hooks.state_dict() == {}


def test_a_weight_that_the_objective_does_not_move_stays():
    used, idle = nn.Linear(2, 1), nn.Linear(2, 1)
    before = idle.weight.tolist()
    hooks = WeightPerturbation(AwpConfig(), nn.ModuleList([used, idle]))
    hooks.before_loss(context(), lambda: used.weight.sum() + 0 * used.weight[0, 0])
    assert idle.weight.tolist() == before
    hooks.before_loss(context(), lambda: (0 * used.weight).sum())
    assert used.weight.isfinite().all()


def test_without_an_update_the_weights_come_back():
    """To one unit in the last place of the larger of weight and perturbation, as one addition and
    subtraction leave them.
    """
    module, batch = tiny_network(10).float(), tiny_batch(8, 10)
    before = weights(module)
    hooks = WeightPerturbation(AwpConfig(gamma=0.01), module)
    hooks.before_loss(context(), lambda: F.cross_entropy(module(batch.x.float()), batch.y))
    perturbed = weights(module)
    assert (perturbed - before).norm() > 1e-3
    hooks.after_update(context())
    ulp = torch.finfo(torch.float32).eps * torch.maximum(before.abs(), perturbed.abs())
    assert ((weights(module) - before).abs() <= ulp).all()


def run_steps(names, *, accumulate=1, module=None, steps=2, options=None, use=None, spy=None):
    module = module or plain_network()
    extra = [plugin("spy", trainer=lambda run: spy)] if spy else []
    step = make_step(
        module, *names, *extra, accumulate=accumulate, lr=0.05, options=options, use=use
    )
    results = [step(tiny_batch(8, 10), number, 0, 0.0) for number in range(steps)]
    return weights(module), results[-1].total.item()


@pytest.mark.parametrize(
    "names", [("awp",), ("awp", "mart"), ("awp", "emr"), ("awp", "emr", "mart")]
)
@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_make_the_update_of_the_whole_batch(names, parts):
    found, total = run_steps(names, accumulate=parts)
    expected, expected_total = run_steps(names)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert total == pytest.approx(expected_total, rel=1e-12)
    assert not torch.allclose(found, run_steps(names[1:])[0], rtol=0, atol=1e-6)


def test_the_objective_holds_every_term():
    """The perturbation follows the gradient of the loss and the penalty together."""
    module, spy, batch = plain_network(), Spy(), tiny_batch(8, 10)
    options = {"awp": {"gamma": 0.1}, "emr": {"weight": 50}}
    plan = plan_of("emr", net=Net(module), num_classes=10, options=options["emr"], use=NO_ATTACK)
    terms = plan.terms(StepContext(batch, batch.x, {}, Net(module), 0, 0, 0.0, 8))
    objective = sum(term.weight * term.value.mean() for term in terms.values())
    assert set(terms) == {"ce", "emr/grad_sq"}
    expected = {}
    for name in ("0.weight", "3.weight"):
        weight = module.get_parameter(name)
        (gradient,) = torch.autograd.grad(objective, weight, retain_graph=True)
        expected[name] = (weight + 0.1 * weight.norm() * gradient / gradient.norm()).detach()
    run_steps(("awp", "emr"), module=module, steps=1, options=options, use=NO_ATTACK, spy=spy)
    for name, value in expected.items():
        assert torch.allclose(spy.perturbed[name], value, rtol=0, atol=1e-12)


def test_the_loss_is_higher_at_the_perturbed_weights():
    without, with_awp = (
        run_steps(names, steps=1, options={"awp": {"gamma": 0.1}} if names else None)[1]
        for names in ((), ("awp",))
    )
    assert with_awp > without


def test_batch_norm_sees_the_perturbed_forward_alone():
    module = tiny_network(10)
    run_steps(("awp",), module=module, steps=1, use=NO_ATTACK)
    assert module[1].num_batches_tracked.item() == 1


def test_in_the_warm_up_the_run_is_that_without_the_plugin():
    found = run_steps(("awp",), options={"awp": {"warmup": 1}})[0]
    assert torch.equal(found, run_steps(())[0])
    hooks = WeightPerturbation(AwpConfig(warmup=3), nn.Linear(2, 1))
    for epoch, perturbed in ((2, False), (3, True)):
        hooks.before_loss(context(epoch), lambda: hooks.weights[0].sum())
        assert bool(hooks.added) is perturbed


def test_a_share_of_the_training_stands_in_for_the_warm_up():
    hooks = WeightPerturbation(AwpConfig(warmup=3, begin_at=0.25), nn.Linear(2, 1))
    for progress, perturbed in ((0.0, False), (0.24, False), (0.25, True)):
        hooks.before_loss(context(0, progress), lambda: hooks.weights[0].sum())
        assert bool(hooks.added) is perturbed


def test_a_step_that_was_broken_off_is_undone_by_the_next():
    """The loss turns NaN behind before_loss; the next step starts from the weights that the broken
    one started from.
    """
    broken = []

    def loss(run):
        def terms(ctx):
            ce = F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none")
            return {"ce": Term(ce * float("nan") if broken and broken.pop() else ce)}

        return terms

    found = []
    for breaks in (False, True):
        module = plain_network()
        step = make_step(
            module,
            "awp",
            plugin("fragile", loss=loss),
            use=NO_ATTACK,
            options={"awp": {"gamma": 0.1}},
        )
        if breaks:
            broken[:] = [
                True,
                False,
            ]  # the objective's forward is fine, that at the perturbed weights is not
            with pytest.raises(NotFiniteError):
                step(tiny_batch(8, 10), 0, 0, 0.0)
            step.optimizer.zero_grad()
            assert not torch.allclose(weights(module), weights(plain_network()), atol=1e-6)
        step(tiny_batch(8, 10), 0, 0, 0.0)
        found.append(weights(module))
    assert torch.allclose(*found, rtol=0, atol=1e-14)


def test_averaged_weights_are_averages_of_the_restored_ones():
    module = plain_network()
    plan = plan_of(
        "awp", net=Net(module), num_classes=10, use=NO_ATTACK, options={"awp": {"gamma": 0.1}}
    )
    plan, averaged = add_averaging(plan, module, 0.0)
    step_of(Net(module), plan, torch.optim.SGD(module.parameters(), lr=0.1), THREAT, Randomness(0))(
        tiny_batch(8, 10), 0, 0, 0.0
    )
    assert torch.equal(weights(averaged), weights(module))
