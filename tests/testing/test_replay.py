"""``replay`` against plain loops: which forwards move the running statistics, in which order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis import TrainerHooks, UsageError
from abatis.api.randomness import seeded
from abatis.testing import replay, tiny_batch, tiny_network
from tests.helpers import plugin

EPS, STEP, STEPS = 0.03, 0.008, 3
ATTACK = {"steps": STEPS, "step_size": STEP}
OPTIM = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
LOGGED = {"attack": ["steps", "adv"], "loss": ["adv"], "after": ["clean"]}
Objective = Callable[[Tensor], Tensor]


def batches(count: int = 3):
    return [tiny_batch(8 + number, 10) for number in range(count)]


def starts(kind: str) -> list[Tensor]:
    with seeded(0, "starts"):
        noise = [torch.randn_like(batch.x) for batch in batches()]
    if kind == "normal":
        return [0.001 * one for one in noise]
    return [EPS * one.tanh() for one in noise]


def climb(module: nn.Module, x: Tensor, start: Tensor, objective: Objective) -> Tensor:
    """PGD in the mode the module is in; images that leave the box are clipped at once."""
    point = (x + start).clamp(0, 1) if start.abs().max() > 0.01 else x + start
    for _ in range(STEPS):
        point = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(module(point)), point)
        point = point.detach() + STEP * gradient.sign()
        point = torch.min(torch.max(point, x - EPS), x + EPS).clamp(0, 1)
    return point.detach()


def cross_entropy(y: Tensor) -> Objective:
    return lambda logits: F.cross_entropy(logits, y, reduction="sum")


def kl(logits: Tensor, clean: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), clean.softmax(1), reduction="sum")


def trades_attack(module: nn.Module, x: Tensor, start: Tensor) -> Tensor:
    module.eval()
    with torch.no_grad():
        clean = module(x)
    x_adv = climb(module, x, start, lambda logits: kl(logits, clean))
    module.train()
    return x_adv


def train(
    step: Callable[..., Tensor], kind: str, after: Callable[..., None] | None = None, **optim: Any
) -> list[dict[str, Tensor]]:
    """The state after every step of a plain loop."""
    module = tiny_network(10).train()
    optimizer = torch.optim.SGD(module.parameters(), **{**OPTIM, **optim})
    states = []
    for batch, start in zip(batches(), starts(kind), strict=True):
        optimizer.zero_grad()
        step(module, batch.x, batch.y, start).backward()
        optimizer.step()
        if after is not None:
            after(module, batch.x)
        states.append(copy.deepcopy(module.state_dict()))
    return states


def check(expected: Sequence[dict[str, Tensor]], plugins: Any, kind: str, **arguments: Any) -> None:
    """A replay from the same weights, batches and starts leaves the same states."""
    steps = replay(
        plugins,
        tiny_network(10),
        batches(),
        threat=f"Linf:{EPS}",
        optim=OPTIM,
        start=starts(kind),
        **arguments,
    )
    for state, step in zip(expected, steps, strict=True):
        found = {**step.parameters, **step.buffers}
        assert found.keys() == state.keys()
        for name, value in state.items():
            assert torch.allclose(found[name].double(), value.double(), rtol=0, atol=1e-12), name


def test_trades_with_a_third_forward():
    """Clean, adversarial, clean again: the cross-entropy reads the first, the KL the last."""

    def step(module, x, y, start):
        x_adv = trades_attack(module, x, start)
        ce = F.cross_entropy(module(x), y)
        adversarial = module(x_adv)
        return ce + 6 * kl(adversarial, module(x)) / len(x)

    check(
        train(step, "normal"),
        "trades",
        "normal",
        attack={**ATTACK, "start": "normal"},
        statistics={"loss": ["clean", "adv", "clean"]},
    )


def test_trades_at_perturbed_weights_begins_with_the_adversarial_forward():
    gamma = 0.005

    def step(module, x, y, start):
        x_adv = trades_attack(module, x, start)
        proxy = copy.deepcopy(module)
        weights = [weight for weight in proxy.parameters() if weight.dim() > 1]
        clean = proxy(x)
        loss = F.cross_entropy(clean, y) + 6 * kl(proxy(x_adv), clean) / len(x)
        gradients = torch.autograd.grad(loss, weights)
        own = [weight for weight in module.parameters() if weight.dim() > 1]
        added = [
            (gamma * weight.norm() * gradient / gradient.norm()).detach()
            for weight, gradient in zip(own, gradients, strict=True)
        ]
        with torch.no_grad():
            for weight, perturbation in zip(own, added, strict=True):
                weight.add_(perturbation)
        module.added = added
        adversarial, first = module(x_adv), module(x)
        return F.cross_entropy(first, y) + 6 * kl(adversarial, module(x)) / len(x)

    def restore(module, x):
        with torch.no_grad():
            own = [weight for weight in module.parameters() if weight.dim() > 1]
            for weight, perturbation in zip(own, module.added, strict=True):
                weight.sub_(perturbation)

    check(
        train(step, "normal", restore),
        ["trades", "awp"],
        "normal",
        options={"trades": {"beta": 6}, "awp": {"gamma": gamma}},
        attack={**ATTACK, "start": "normal"},
        statistics={"loss": ["adv", "clean", "clean"]},
    )


def test_robust_overfitting_moves_them_in_the_attack_and_for_the_log():
    def step(module, x, y, start):
        x_adv = climb(module, x, start, cross_entropy(y))
        module(x_adv)  # to choose a restart
        return F.cross_entropy(module(x_adv), y)

    check(
        train(step, "uniform", lambda module, x: module(x)),
        [],
        "uniform",
        attack={**ATTACK, "bn": "train"},
        statistics=LOGGED,
    )


def test_a_penalty_reads_what_the_attack_has_moved():
    def step(module, x, y, start):
        x_adv = climb(module, x, start, cross_entropy(y))
        ce = F.cross_entropy(module(x_adv), y)
        module.eval()
        point = x_adv.clone().requires_grad_()
        logits = module(point)
        weights = (logits / 40).softmax(1).detach()
        (mean,) = torch.autograd.grad((weights * logits).sum() / len(x), point, create_graph=True)
        module.train()
        return ce + 3 * mean.square().sum()

    check(
        train(step, "uniform"),
        "emr",
        "uniform",
        attack={**ATTACK, "bn": "train"},
        statistics={"attack": ["steps"]},
    )


def test_micro_batches_move_them_one_after_the_other():
    """Nesterov's momentum, and every forward of both halves of each batch."""
    module = tiny_network(10).train()
    optimizer = torch.optim.SGD(module.parameters(), **OPTIM, nesterov=True)
    states = []
    for batch, start in zip(batches(), starts("uniform"), strict=True):
        cut = len(batch) // 2
        halves = [slice(0, cut), slice(cut, None)]
        attacked = []
        for rows in halves:
            x, y = batch.x[rows], batch.y[rows]
            x_adv = climb(module, x, start[rows], cross_entropy(y))
            module(x_adv)
            attacked.append(x_adv)
        optimizer.zero_grad()
        for rows, x_adv in zip(halves, attacked, strict=True):
            y = batch.y[rows]
            (F.cross_entropy(module(x_adv), y) * len(y) / len(batch)).backward()
        optimizer.step()
        for rows in halves:
            module(batch.x[rows])
        states.append(copy.deepcopy(module.state_dict()))
    steps = replay(
        [],
        tiny_network(10),
        batches(),
        threat=f"Linf:{EPS}",
        attack={**ATTACK, "bn": "train"},
        optim={**OPTIM, "nesterov": True},
        statistics=LOGGED,
        start=starts("uniform"),
        accumulate=2,
    )
    for state, step in zip(states, steps, strict=True):
        for name, value in {**step.parameters, **step.buffers}.items():
            assert torch.allclose(value.double(), state[name].double(), rtol=0, atol=1e-12), name


@pytest.mark.parametrize("threat", ["L2:0.5", "Linf:0.03"])
def test_the_given_noise_is_where_the_attack_begins(threat):
    """Without a step the result is the start itself, clipped to the box and the ball."""
    noise = starts("uniform")
    steps = replay([], tiny_network(10), batches(), threat=threat, attack={"steps": 0}, start=noise)
    for batch, start, step in zip(batches(), noise, steps, strict=True):
        assert torch.allclose(step.x_adv, (batch.x + start).clamp(0, 1), rtol=0, atol=1e-15)


def count_forwards(**arguments: Any) -> int:
    """How many forwards moved the statistics in one step."""
    (step,) = replay([], tiny_network(10), batches(1), **arguments)
    return int(step.buffers["1.num_batches_tracked"])


@pytest.mark.parametrize(
    ("words", "count"),
    [([], 1), (["clean"], 1), (["adv"], 1), (["clean", "adv"], 2), (["adv", "clean", "clean"], 3)],
)
def test_without_an_attack_all_forwards_are_alike(words, count):
    use = {"attacker": "none"}
    assert count_forwards(statistics={"loss": words}, use=use) == count


def test_the_attack_restores_what_it_moves_unless_told_otherwise():
    attack = {"steps": 4, "bn": "train"}
    assert count_forwards(attack=attack) == 1
    assert count_forwards(attack=attack, statistics={"attack": ["steps"]}) == 5
    assert count_forwards(attack=attack, statistics={"attack": ["adv"]}) == 2
    assert count_forwards(attack=attack, statistics={"after": ["clean", "adv"]}) == 3


def test_the_objective_of_a_trainer_hook_makes_the_forwards_and_leaves_no_trace():
    seen = []

    class Hooks(TrainerHooks):
        def before_loss(self, ctx, objective):
            before = copy.deepcopy(dict(ctx.net.module.named_buffers()))
            seen.append(objective().item())
            for name, value in ctx.net.module.named_buffers():
                assert torch.equal(value, before[name])

    hooked = plugin("hooked", trainer=lambda run: Hooks())
    arguments = {"statistics": {"loss": ["clean", "adv", "clean"]}, "threat": "Linf:0.03"}
    (step,) = replay([hooked, "emr"], tiny_network(10), batches(1), **arguments)
    assert seen == [pytest.approx(step.total.item(), rel=1e-12)]
    assert int(step.buffers["1.num_batches_tracked"]) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"statistics": {"attack": ["steps"]}}, "an attack in eval mode moves no"),
        ({"statistics": {"attack": ["adv", "steps"]}}, "the steps come first"),
        ({"statistics": {"loss": ["clean"]}}, "the losses need the forward 'adv' too"),
        ({"statistics": {"loss": ["adv"]}, "plugins": "trades"}, "need the forward 'clean' too"),
        ({"statistics": {"los": ["adv"]}}, "los"),
        ({"start": [torch.zeros(1)]}, "start has tensors of shape"),
        ({"start": [torch.zeros(8, 3, 8, 8)], "attack": {"start": "none"}}, "leave start out"),
        ({"start": [torch.zeros(8, 3, 8, 8)], "plugins": "fast"}, "does not begin with"),
        ({"attack": {"ramp": 0.5}}, "a replay has no length"),
        ({"optim": {"name": "adamw", "nesterov": True}}, "--optim.nesterov"),
        ({"optim": {"momentum": 0, "nesterov": True}}, "--optim.nesterov"),
        ({"batches": []}, "no batches were given"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, complaint):
    with pytest.raises(UsageError) as caught:
        replay(**{"plugins": [], "model": tiny_network(10), "batches": batches(1), **arguments})
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


def test_a_replay_converts_the_model_and_leaves_the_generators_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    module = tiny_network(10).float().eval()
    (step,) = replay([], module, batches(1), dtype=torch.float32, step=7, epoch=2)
    assert torch.equal(torch.rand(1), expected)
    assert step.parameters["0.weight"].dtype == step.x_adv.dtype == torch.float32
    assert torch.equal(step.parameters["0.weight"], module[0].weight)
    assert step.parameters["0.weight"].data_ptr() != module[0].weight.data_ptr()
    assert module.training
