"""Training steps as plain loops, written from the papers' algorithms with the passes that published
code makes.

Each is ``loop(model, optimizer, x, y, start, batch_statistics) -> None``: x (B, C, H, W) in [0, 1],
y (B,), ``start`` draws where the attack begins, ``batch_statistics`` is the batch-norm mode of the
attack. The cost in units of one forward pass stands at each loop (a backward pass is one unit for
the input and one for the weights); a test counts it. Where nobody has recorded what a published
loop differentiates, it takes the cheaper input gradient here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

Start = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to the first point of an attack."""
LossOfLogits = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K) and labels (B,) to the mean loss, ()."""

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 10


def uniform(x: Tensor) -> Tensor:
    """Uniform in the ball, clipped to the box."""
    return (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)


def small_normal(x: Tensor) -> Tensor:
    """A little noise, not clipped."""
    return x + 0.001 * torch.randn_like(x)


def projected(point: Tensor, x: Tensor) -> Tensor:
    """The nearest point in the ball around x and in the box."""
    return torch.min(torch.max(point, x - EPS), x + EPS).clamp(0, 1)


# -- the attacks
# ------------------------------------------------------------------------------------------


def attack_by_backward(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """3 units a step and 1: ``backward`` makes gradients of the weights for nobody, a last forward
    scores the restart.
    """
    delta = (start - x).requires_grad_()
    for _ in range(STEPS):
        F.cross_entropy(model(x + delta), y).backward()
        with torch.no_grad():
            delta.copy_(projected(x + delta + ALPHA * delta.grad.sign(), x) - x)
            delta.grad.zero_()
    F.cross_entropy(model(x + delta), y, reduction="none")
    return (x + delta).detach()


def attack_by_input_gradient(
    x: Tensor, start: Tensor, objective: Callable[[Tensor], Tensor]
) -> Tensor:
    """2 units a step and whatever else the objective, points (B, C, H, W) to (), costs."""
    point = start.detach()
    for _ in range(STEPS):
        point.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(point), [point])
        point = projected(point.detach() + ALPHA * gradient.sign(), x)
    return point


def attack_cross_entropy(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """2 units a step."""
    return attack_by_input_gradient(x, start, lambda point: F.cross_entropy(model(point), y))


def summed_kl(logits: Tensor, logits_adv: Tensor) -> Tensor:
    """KL(p || p') summed over the batch, differentiable in both: (B, K), (B, K) -> ()."""
    return F.kl_div(F.log_softmax(logits_adv, 1), F.softmax(logits, 1), reduction="sum")


# -- losses of adversarial logits
# ------------------------------------------------------------------------------------------


def rival_of(values: Tensor, y: Tensor) -> Tensor:
    """The largest value of a class other than y: (B, K), (B,) -> (B,)."""
    return values.masked_fill(F.one_hot(y, values.shape[1]).bool(), -torch.inf).max(1).values


def switched_loss(logits: Tensor, y: Tensor, share: float = 0.4, weight: float = 0.4) -> Tensor:
    """Cross-entropy, and one-vs-the-rest for the share of the batch with the smallest margins."""
    label = logits.gather(1, y[:, None]).squeeze(1)
    hardest = (rival_of(logits, y) - label).detach().topk(int(share * len(y))).indices
    sign = 1 - 2 * F.one_hot(y, logits.shape[1])
    one_vs_rest = F.softplus(sign * logits).sum(1)
    losses = F.cross_entropy(logits, y, reduction="none")
    return losses.index_put((hardest,), weight * one_vs_rest[hardest]).mean()


def margin_weighted_loss(
    logits: Tensor, y: Tensor, slope: float = 10.0, bias: float = -0.5
) -> Tensor:
    """Cross-entropy weighted by 3 sigmoid(slope (bias - probabilistic margin)), the weights
    detached.
    """
    p = F.softmax(logits, 1).detach()
    margin = p.gather(1, y[:, None]).squeeze(1) - rival_of(p, y)
    return (
        3 * torch.sigmoid(slope * (bias - margin)) * F.cross_entropy(logits, y, reduction="none")
    ).mean()


# -- training steps on adversarial images
# ----------------------------------------------------------------------------------


def update(model: nn.Module, optimizer: Optimizer, loss: Callable[[], Tensor]) -> None:
    """The usual four lines, in training mode."""
    model.train()
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def at(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    start: Start = uniform,
    batch_statistics: bool = True,
    loss: LossOfLogits = F.cross_entropy,
) -> None:
    """35 units, 3 of them the update, 1 a clean forward behind it for the log."""
    model.train(batch_statistics)
    x_adv = attack_by_backward(model, x, y, start(x))
    update(model, optimizer, lambda: loss(model(x_adv), y))
    model(x)


def sovr(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    start: Start = uniform,
    batch_statistics: bool = True,
) -> None:
    """35 units: no code is published, so the loop of adversarial training with the paper's loss."""
    at(model, optimizer, x, y, start, batch_statistics, switched_loss)


def trades(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    start: Start = small_normal,
    batch_statistics: bool = False,
) -> None:
    """39 units: a clean forward in each step of the attack, two in the loss."""
    model.train(batch_statistics)
    x_adv = attack_by_input_gradient(x, start(x), lambda point: summed_kl(model(x), model(point)))

    def loss() -> Tensor:
        clean = F.cross_entropy(model(x), y)
        logits_adv = model(x_adv)
        return clean + 6.0 / len(x) * summed_kl(model(x), logits_adv)

    update(model, optimizer, loss)


def mart(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    start: Start = small_normal,
    batch_statistics: bool = False,
) -> None:
    """26 units."""
    model.train(batch_statistics)
    x_adv = attack_cross_entropy(model, x, y, start(x))

    def loss() -> Tensor:
        p, logits_adv = F.softmax(model(x), 1), model(x_adv)
        p_adv = F.softmax(logits_adv, 1)
        boosted = (
            F.cross_entropy(logits_adv, y) - torch.log(1.0001 - rival_of(p_adv, y) + 1e-12).mean()
        )
        kl = F.kl_div(torch.log(p_adv + 1e-12), p, reduction="none").sum(1)
        return boosted + 6.0 * (kl * (1.0000001 - p.gather(1, y[:, None]).squeeze(1))).mean()

    update(model, optimizer, loss)


def mail(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    start: Start = small_normal,
    batch_statistics: bool = False,
) -> None:
    """23 units."""
    model.train(batch_statistics)
    x_adv = attack_cross_entropy(model, x, y, start(x))
    update(model, optimizer, lambda: margin_weighted_loss(model(x_adv), y))


def emr(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    start: Start = uniform,
    batch_statistics: bool = True,
) -> None:
    """23 units, and a forward in eval mode, its input gradient and that gradient's backward
    pass.
    """
    model.train(batch_statistics)
    x_adv = attack_cross_entropy(model, x, y, start(x)).requires_grad_()

    def loss() -> Tensor:
        base = F.cross_entropy(model(x_adv), y)
        model.eval()
        logits = model(x_adv)
        weights = F.softmax(logits / 40.0, 1).detach()
        (gradient,) = torch.autograd.grad(
            (weights * logits).sum(1).mean(), [x_adv], create_graph=True
        )
        return base + 3.0 * gradient.square().sum()

    update(model, optimizer, loss)
    model.train()


def perturbed_weights(
    model: nn.Module, x_adv: Tensor, y: Tensor, gamma: float = 0.01
) -> list[tuple[Tensor, Tensor]]:
    """4 units less 1: a proxy network climbs its loss by one step; the weights and what to add to
    them.
    """
    proxy = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    update(proxy, optimizer, lambda: -F.cross_entropy(proxy(x_adv), y))
    pairs = []
    with torch.no_grad():
        for weight, moved in zip(model.parameters(), proxy.parameters(), strict=True):
            if weight.dim() > 1:
                change = moved - weight
                pairs.append((weight, gamma * weight.norm() / (change.norm() + 1e-20) * change))
    return pairs


def awp(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    start: Start = uniform,
    batch_statistics: bool = True,
) -> None:
    """38 units and a copy of the network: adversarial training with the update taken at perturbed
    weights.
    """
    model.train(batch_statistics)
    x_adv = attack_by_backward(model, x, y, start(x))
    optimizer.zero_grad()
    pairs = perturbed_weights(model, x_adv, y)
    move(pairs, 1)
    update(model, optimizer, lambda: F.cross_entropy(model(x_adv), y))
    move(pairs, -1)
    model(x)


@torch.no_grad()
def move(pairs: Iterable[tuple[Tensor, Tensor]], sign: int) -> None:
    """Add the perturbations to the weights, or take them away."""
    for weight, perturbation in pairs:
        weight.add_(perturbation, alpha=sign)
