"""One step: its update, the checks before it, and that micro-batches change nothing."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abatis import Attacked, Term, TrainerHooks
from abatis.api.randomness import Randomness
from abatis.config.option_groups import AttackConfig
from abatis.errors import NotFiniteError, OutOfMemoryError, PluginError
from abatis.nets.net import Net
from abatis.testing import THREAT, plan_of, step_of, tiny_batch, tiny_network
from abatis.train.builtin.averaging import WeightAveraging
from tests.helpers import plugin


def plain_network(num_classes=10):
    """Without batch norm, so that micro-batches see what the batch sees."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.Softplus(), nn.Flatten(), nn.Linear(36, num_classes)
    ).double()


def make_step(
    module, *plugins, lr=0.1, threat=THREAT, options=None, use=None, attack=None, **arguments
):
    net, random = Net(module), Randomness(0)
    attack = attack or AttackConfig(steps=2)
    plan = plan_of(
        *plugins, net=net, num_classes=10, options=options, use=use, attack=attack, random=random
    )
    return step_of(
        net, plan, torch.optim.SGD(module.parameters(), lr=lr), threat, random, **arguments
    )


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_standard_training_is_one_sgd_step_on_the_mean_cross_entropy():
    module, batch = plain_network(), tiny_batch(8, 10)
    expected = copy.deepcopy(module)
    loss = F.cross_entropy(expected(batch.x), batch.y)
    gradients = torch.autograd.grad(loss, expected.parameters())
    result = make_step(module, use={"attacker": "none"})(batch, 0, 0, 0.0)
    for parameter, before, gradient in zip(
        module.parameters(), expected.parameters(), gradients, strict=True
    ):
        assert torch.allclose(parameter, before - 0.1 * gradient, rtol=0, atol=1e-15)
    assert result.total.item() == pytest.approx(loss.item(), rel=1e-14)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_adversarial_training_by_hand():
    """One signed step from the stored start, projected, then cross-entropy there."""
    module, batch = plain_network(), tiny_batch(8, 10)
    expected = copy.deepcopy(module)
    random = Randomness(0)
    random.at(0)
    start = (
        (batch.x + (2 * random.uniform("attack/uniform", batch.x) - 1) * THREAT.eps)
        .clamp(0, 1)
        .requires_grad_()
    )
    (gradient,) = torch.autograd.grad(
        F.cross_entropy(expected(start), batch.y, reduction="sum"), start
    )
    x_adv = start.detach() + 0.01 * gradient.sign()
    x_adv = torch.min(torch.max(x_adv, batch.x - THREAT.eps), batch.x + THREAT.eps).clamp(0, 1)
    result = make_step(module, attack=AttackConfig(steps=1, step_size="0.01"))(batch, 0, 0, 0.0)
    assert result.total.item() == pytest.approx(
        F.cross_entropy(expected(x_adv), batch.y).item(), rel=1e-14
    )


@pytest.mark.parametrize("names", [(), ("emr",), ("mart",), ("emr", "mart")])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_micro_batches_make_the_update_of_the_whole_batch(names, parts):
    batch, found = tiny_batch(8, 10), []
    for accumulate in (1, parts):
        module = plain_network()
        step = make_step(module, *names, accumulate=accumulate)
        results = [step(batch, number, 0, 0.0) for number in range(2)]
        found.append((weights(module), results[-1].total))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-12)
    assert found[0][1].item() == pytest.approx(found[1][1].item(), rel=1e-12)


def check_micro_batches(*plugins, parts):
    """Three updates from whole batches and from cut ones lead to the same weights."""
    found = []
    for accumulate in (1, parts):
        module = plain_network()
        step = make_step(module, *plugins, accumulate=accumulate)
        for number in range(3):
            step(tiny_batch(8, 10), number, 0, 0.0)
        found.append(weights(module))
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_gather_gives_every_micro_batch_the_values_of_the_whole_batch():
    """Two gathers, the second built on the first: weights by the rank of each sample's loss."""
    seen = []

    def loss(run):
        def terms(ctx):
            ce = F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none")
            everyone = ctx.gather(ce)
            scaled = ce.detach() / everyone.mean()
            largest = ctx.gather(scaled).max()
            seen.append((everyone.shape[0], largest.item()))
            return {"x": Term(ce * scaled / largest)}

        return terms

    check_micro_batches(plugin("coupled", loss=loss), parts=3)
    assert {size for size, _ in seen} == {8}


def test_a_gather_may_begin_in_a_later_step():
    def loss(run):
        def terms(ctx):
            ce = F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none")
            return {"x": Term(ce / ctx.gather(ce).mean() if ctx.step else ce)}

        return terms

    late = plugin("late", loss=loss)
    check_micro_batches(late, parts=2)
    module = tiny_network(10)  # the forwards of the step that is begun again count once
    step = make_step(module, late, accumulate=2)
    for number in range(3):
        step(tiny_batch(8, 10), number, 0, 0.0)
    assert module[1].num_batches_tracked == 3 * 2


def test_an_attack_leaves_no_trace_on_the_network():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)
    ).double()
    before = copy.deepcopy(module.state_dict())
    net, batch = Net(module), tiny_batch(4, 10)
    for batch_statistics in (False, True):
        plan = plan_of(net=net, num_classes=10, attack=AttackConfig(steps=2))
        with net.attack_mode(batch_statistics):
            assert module[1].training is batch_statistics
            assert not any(parameter.requires_grad for parameter in module.parameters())
            plan.attacker(net, batch)
        assert all(part.training for part in module.modules())
        assert all(
            parameter.requires_grad and parameter.grad is None for parameter in module.parameters()
        )
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda x: x + 0.1, "left the ball"),
        (lambda x: x - x.min() - 1e-3, "left the ball"),
        (lambda x: x * float("nan"), "left the ball"),
        (lambda x: x[:2], "returned (2,"),
        (lambda x: x.float(), "float32"),
        (lambda x: x.clone().requires_grad_(), "returned"),
    ],
)
def test_an_attacker_that_breaks_its_promise_is_named(make, complaint):
    bad = plugin("bad", attacker=lambda run: lambda forward, batch: Attacked(make(batch.x)))
    with pytest.raises(PluginError, match="'bad'") as caught:
        make_step(plain_network(), bad)(tiny_batch(4, 10), 0, 0, 0.0)
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


def test_an_attacker_may_say_how_far_it_goes_beyond_the_threat():
    class Far:
        reach = 2.0

        def __init__(self, factor):
            self.factor = factor

        def __call__(self, forward, batch):
            inwards = torch.where(batch.x > 0.5, -1.0, 1.0)
            return Attacked(batch.x + self.factor * THREAT.eps * inwards)

    make_step(plain_network(), plugin("far", attacker=lambda run: Far(1.9)))(
        tiny_batch(4, 10), 0, 0, 0.0
    )
    with pytest.raises(PluginError, match="2 times 8/255"):
        make_step(plain_network(), plugin("far", attacker=lambda run: Far(2.1)))(
            tiny_batch(4, 10), 0, 0, 0.0
        )


def not_finite(term):
    def loss(run):
        def terms(ctx):
            ce = F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none")
            return {
                "constant": Term(torch.ones(())),
                "fine": Term(ce),
                "odd": Term(term(ctx.logits_adv)),
            }

        return terms

    return plugin("bad", loss=loss)


@pytest.mark.parametrize(
    ("term", "complaint"),
    [
        (lambda z: z[:, 0] * float("nan"), "the loss is not finite: term 'odd'"),
        (lambda z: z[:, 0] * float("inf"), "the loss is not finite: term 'odd'"),
        (
            lambda z: ((z[:, 0] - z[:, 0].detach()) ** 2).sqrt(),
            "the gradient of term 'odd' is not finite",
        ),
    ],
)
def test_not_finite_stops_before_the_update_and_names_the_term(term, complaint):
    module = plain_network()
    before = weights(module)
    with pytest.raises(NotFiniteError) as caught:
        make_step(module, not_finite(term))(tiny_batch(4, 10), 3, 0, 0.0)
    assert complaint in str(caught.value)
    assert "step 3" in str(caught.value)
    assert caught.value.exit_code == 4
    assert torch.equal(weights(module), before)


def test_a_detached_loss_is_refused():
    bad = plugin("bad", loss=lambda run: lambda ctx: {"x": Term(ctx.logits_adv.detach().sum(1))})
    with pytest.raises(PluginError, match="its terms do not depend on the network: x"):
        make_step(plain_network(), bad)(tiny_batch(4, 10), 0, 0, 0.0)


def test_a_failing_backward_pass_names_the_plugin():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise ValueError("no way back")

    bad = plugin("bad", loss=lambda run: lambda ctx: {"x": Term(Once.apply(ctx.logits_adv).sum(1))})
    with pytest.raises(
        PluginError, match="plugin 'bad' failed in its backward pass: ValueError: no way back"
    ):
        make_step(plain_network(), bad)(tiny_batch(4, 10), 0, 0, 0.0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
@pytest.mark.parametrize(("where", "hook"), [("attack", "attacker"), ("loss", "loss")])
def test_out_of_memory_names_its_phase(where, hook, error):
    def full(*_):
        raise error

    with pytest.raises(OutOfMemoryError, match=f"in the {where}") as caught:
        make_step(plain_network(), plugin("big", **{hook: lambda run: full}))(
            tiny_batch(4, 10), 0, 0, 0.0
        )
    assert "--accumulate" in str(caught.value)


def test_clipping_bounds_the_update():
    module = plain_network()
    before = weights(module)
    make_step(module, lr=1.0, clip_grad=1e-3)(tiny_batch(8, 10), 0, 0, 0.0)
    assert (weights(module) - before).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_trainer_hooks_run_around_the_update_and_their_objective_leaves_buffers_alone():
    calls = []

    class Hooks(TrainerHooks):
        def before_loss(self, ctx, objective):
            buffers = copy.deepcopy(dict(ctx.net.module.named_buffers()))
            calls.append(("before", objective().item()))
            assert all(
                torch.equal(value, buffers[name]) for name, value in ctx.net.module.named_buffers()
            )

        def after_update(self, ctx):
            calls.append(("after", ctx.step))

    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)
    ).double()
    result = make_step(module, plugin("hooks", trainer=lambda run: Hooks()))(
        tiny_batch(8, 10), 5, 0, 0.0
    )
    assert calls == [("before", pytest.approx(result.total.item(), rel=1e-12)), ("after", 5)]


def test_weight_averaging_by_hand():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    averaging = WeightAveraging(module, 0.9)
    nn.init.constant_(module.weight, 2.0)
    averaging.after_update(None)
    first = 2 / 11 * 1 + 9 / 11 * 2  # the decay of the first update is (1 + 1) / (10 + 1)
    assert averaging.averaged.weight.item() == pytest.approx(first)
    state = averaging.state_dict()
    again = WeightAveraging(module, 0.9)
    again.load_state_dict(state)
    for each in (averaging, again):
        each.after_update(None)
        assert each.averaged.weight.item() == pytest.approx(3 / 12 * first + 9 / 12 * 2)


def test_without_attack_both_logits_are_one_tensor():
    seen = []

    def loss(run):
        def terms(ctx):
            seen.append(ctx.logits_adv is ctx.logits_clean)
            return {"x": Term(F.cross_entropy(ctx.logits_adv, ctx.batch.y, reduction="none"))}

        return terms

    make_step(plain_network(), plugin("look", loss=loss), use={"attacker": "none"})(
        tiny_batch(4, 10), 0, 0, 0.0
    )
    assert seen == [True]


def test_frozen_forward_is_eval_twice_differentiable_and_leaves_modes():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 10)
    ).double()
    module[1].eval()  # a frozen batch norm stays as its owner left it
    net, x = Net(module), tiny_batch(2, 10).x.requires_grad_()
    logits = net.frozen(x)
    assert torch.equal(logits, copy.deepcopy(module).eval()(x))
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), module[0].weight)[0].abs().sum() > 0
    assert [part.training for part in module] == [True, False, True, True, True]


def test_bf16_logits_come_back_as_float32():
    net = Net(plain_network().float(), "bf16")
    x = tiny_batch(2, 10).x.float()
    assert net(x).dtype == torch.float32
    assert not torch.equal(net(x), net.frozen(x))
    assert torch.allclose(net(x), net.frozen(x), atol=0.05)
