"""The plain loops that train on clean images for their margins; plain_loops.py says what they have
in common.

They take ``start`` and ``batch_statistics`` like the others and have no use for them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from benchmarks.plain_loops import Start, rival_of, small_normal, update
from torch import Tensor, nn
from torch.optim import Optimizer

OVERSHOOT, EPSILON = 0.02, 1e-5
LAMBDA, C, D, CLIP, TOP = 32.0, 2.0, 1.0, 50.0, 0.2
ITERATIONS, CANDIDATES = 2, 4  # three rivals and the class itself


def average_margin(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    start: Start = small_normal,
    batch_statistics: bool = False,
) -> None:
    """3 units: cross-entropy, a ramp on the logit margin, an orthogonality penalty on the
    weights.
    """

    def loss() -> Tensor:
        logits = model(x)
        margin = logits.gather(1, y[:, None]).squeeze(1) - rival_of(logits, y)
        orthogonality = torch.zeros((), dtype=x.dtype)
        for layer in model.modules():
            if (
                isinstance(layer, nn.Conv2d | nn.Linear)
                and len(layer.weight) <= layer.weight[0].numel()
            ):
                matrix = layer.weight.flatten(1)
                orthogonality = (
                    orthogonality
                    + (matrix @ matrix.T - torch.eye(len(matrix), dtype=x.dtype)).square().sum()
                )
        return (
            F.cross_entropy(logits, y)
            + 0.1 * (5 - margin).clamp(0, 5).mean()
            + 1e-3 * orthogonality
        )

    update(model, optimizer, loss)


def amm(
    model: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    start: Start = small_normal,
    batch_statistics: bool = False,
) -> None:
    """3 units, 1 for who is right, then DeepFool on each group: once to find its worst samples,
    once more on those.
    """
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    model.eval()
    with torch.no_grad():
        right = model(x).argmax(1) == y
    for rows, positive in (
        (right.nonzero().squeeze(1), True),
        ((~right).nonzero().squeeze(1), False),
    ):
        if len(rows):
            penalty = worst_penalty(
                model, x[rows], y[rows], positive, top=max(1, int(TOP * len(x)))
            )
            if penalty is not None:
                (penalty / len(x)).backward()
    optimizer.step()
    model.train()


def worst_penalty(
    model: nn.Module, x: Tensor, y: Tensor, positive: bool, top: int
) -> Tensor | None:
    """R+ or R- of the worst sample of each class that is among the ``top`` worst of all, (); None
    where none arrived.
    """
    r, arrived = deepfool(model, x, None if positive else y, graph=False)
    badness = torch.where(arrived, (-1 if positive else 1) * lengths(r), -torch.inf)  # (B,)
    cut = badness.topk(min(top, len(badness))).values[-1]
    worst = [int(badness.where(y == label, -torch.inf).argmax()) for label in y.unique()]
    chosen = [row for row in worst if arrived[row] and badness[row] >= cut]
    if not chosen:
        return None
    r, arrived = deepfool(model, x[chosen], None if positive else y[chosen], graph=True)
    m = lengths(r[arrived])
    if positive:
        return (LAMBDA * torch.exp(-C * m)).clamp(max=CLIP).sum()
    nearest = m.clamp(max=float(torch.tensor(CLIP / LAMBDA + 1).log()) / D)
    return (LAMBDA * torch.exp(D * nearest)).clamp(max=CLIP).sum()


def lengths(r: Tensor) -> Tensor:
    """L2 norms: (B, ...) -> (B,)."""
    return r.flatten(1).norm(dim=1)


def deepfool(
    model: nn.Module, x: Tensor, toward: Tensor | None, graph: bool
) -> tuple[Tensor, Tensor]:
    """Perturbations (B, C, H, W) out of the predicted class or to ``toward`` (B,), and who arrived
    (B,).

    An iteration is one forward and one backward pass of the batch repeated for each class, and one
    forward of the batch; rows that have arrived are computed on.
    """
    adv, r, active = x, torch.zeros_like(x), torch.ones(len(x), dtype=torch.bool)
    with torch.set_grad_enabled(graph):
        z = model(adv)
    first = z.argmax(1)
    classes = (
        z.detach().topk(CANDIDATES, dim=1).indices
        if toward is None
        else torch.stack([first, toward], 1)
    )  # (B, L)
    for _ in range(ITERATIONS):
        step = linear_step(model, adv, z, classes, graph)
        r = r + torch.where(active[:, None, None, None], step, 0)
        adv = x + r
        with torch.set_grad_enabled(graph):
            z = model(adv)
        now = z.argmax(1)
        active = active & (now == first if toward is None else now != toward)
        if toward is not None:
            classes = torch.stack([now, toward], 1)
        if not active.any():
            break
    return r, ~active


def linear_step(model: nn.Module, adv: Tensor, z: Tensor, classes: Tensor, graph: bool) -> Tensor:
    """To the nearest linearised boundary between classes[:, 0] and the others: (B, C, H, W), (B,
    K), (B, L) -> (B, C, H, W).
    """
    size, count = classes.shape
    repeated = adv.detach().repeat_interleave(count, 0).requires_grad_()
    own = model(repeated).gather(1, classes.flatten()[:, None]).sum()
    (g,) = torch.autograd.grad(own, repeated, create_graph=graph)
    g = g.view(size, count, -1)  # (B, L, C * H * W)
    w = g[:, 1:] - g[:, :1]
    s = z.gather(1, classes[:, 1:]) - z.gather(1, classes[:, :1])  # (B, L - 1)
    norms = (w + EPSILON).norm(dim=2)
    nearest = (s.abs() / norms).argmin(1)
    row = torch.arange(size)
    w, s, norm = w[row, nearest], s[row, nearest], norms[row, nearest]
    return (((1 + OVERSHOOT) * s.abs() / norm.square())[:, None] * w).view_as(adv)
