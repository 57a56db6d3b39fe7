"""The methods whose growth is measured: what a step of each costs by its formula, and the step
itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from benchmarks.side_by_side import Variant, flop
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.randomness import Randomness
from abatis.api.threat import Threat
from abatis.config.option_groups import AttackConfig
from abatis.nets.backbones.cifar_resnet import resnet_trunk
from abatis.nets.backbones.pooled import PooledNet
from abatis.nets.net import Net
from abatis.testing import plan_of, step_of
from abatis.train.micro_batches import RowShare

THREAT = Threat.parse("Linf:8/255")


@dataclass(frozen=True)
class Point:
    """A setting. steps: of the attack; width: channels of the first of three stages; size: pixels a
    side.
    """

    batch: int = 16
    steps: int = 5
    width: int = 16
    classes: int = 10
    size: int = 32


@dataclass(frozen=True)
class Method:
    """What a step costs, in forward passes F of its batch: ``per_step`` for each attack step,
    ``fixed`` beside.

    A gradient to the images alone costs another F, one to the images and the weights 2 F. A penalty
    on an input gradient has a forward, that gradient, and 2 F each behind both: second derivatives
    of a ReLU are 0, but autograd multiplies by them. graphs: forwards and input gradients that the
    update differentiates at once; products: passes over each W W^T.
    """

    fixed: int
    per_step: int = 2
    graphs: int = 1
    products: int = 0
    plugins: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def forwards(self) -> str:
        """In words, S being the attack steps."""
        of_steps = f"{self.per_step} S + " if self.per_step else ""
        return f"{of_steps}{self.fixed}{f' + {self.products} W W^T' if self.products else ''}"


UPDATE = 3  # forward, gradients to images and weights
CANDIDATES = 4
METHODS = {
    "at": Method(UPDATE),
    "trades": Method(
        1 + 2 * UPDATE, graphs=2, plugins=("trades",)
    ),  # the clean prediction that the attack leaves
    "mart": Method(2 * UPDATE, graphs=2, plugins=("mart",)),
    "mail": Method(UPDATE, plugins=("mail",), options={"burn_in": 0}),
    "gairat": Method(UPDATE, plugins=("gairat",), options={"burn_in": 0, "omega": "discrete"}),
    "sovr": Method(UPDATE, plugins=("sovr",)),
    "emr": Method(UPDATE + 6, graphs=3, plugins=("emr",)),
    "input-gradient": Method(UPDATE + 6, graphs=3, plugins=("input-gradient",)),
    "jacobian": Method(UPDATE + 6, graphs=3, plugins=("jacobian",)),
    # prediction, one step of DeepFool (a gradient to each rival and a penalty's passes), where it
    # led
    "amm": Method(
        UPDATE + 1 + (CANDIDATES - 1) + 6 + 1,
        graphs=3,
        plugins=("amm",),
        options={"iterations": 1, "candidates": CANDIDATES, "aggregation": "avg"},
    ),
    "average-margin": Method(UPDATE, products=2, plugins=("average-margin",)),
    "awp": Method(2 * UPDATE, plugins=("awp",)),
    "convstem": Method(UPDATE, plugins=("convstem",)),
    "he": Method(UPDATE, plugins=("he",)),
    "seat": Method(UPDATE, plugins=("seat",)),
    # the teacher is a small network outside of a run
    "lbgat": Method(1 + 2 * UPDATE, graphs=2, plugins=("lbgat",)),
    "ikl": Method(1 + 2 * UPDATE, graphs=2, plugins=("ikl",)),
    # one threat: Auto-PGD, with a forward behind its last step
    "multi-norm": Method(1 + UPDATE, plugins=("multi-norm",)),
    "score": Method(1 + 2 * UPDATE, graphs=2, plugins=("score",)),
    "grad-norm": Method(UPDATE + 6, per_step=0, graphs=3, plugins=("grad-norm",)),
    "fast": Method(2 + UPDATE, per_step=0, plugins=("fast",), options={"guard": 0}),
}


@dataclass(frozen=True)
class Subject:
    """A network, and images (B, 3, H, W) with the labels (B,) that it gives them: all are right, as
    AMM's count assumes.
    """

    module: nn.Module
    net: Net
    x: Tensor
    y: Tensor


def subject(at: Point) -> Subject:
    """A ResNet-8 of some width on random images, its running statistics those of the images and
    kept.
    """
    torch.manual_seed(0)
    widths = [at.width, 2 * at.width, 4 * at.width]
    module, x = (
        PooledNet(partial(resnet_trunk, widths, [1] * len(widths)), widths[-1], at.classes),
        torch.rand(at.batch, 3, at.size, at.size),
    )
    for momentum in (1.0, 0.0):
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = momentum
        with torch.no_grad():
            module(x)
    net = Net(module)
    net.tune(x[:2])
    with torch.no_grad():
        return Subject(module, net, x, net.frozen(x).argmax(1))


def variant_of(method: Method, at: Point, rows: slice | None = None) -> Variant:
    """A step of a method, so short that no label changes; on some rows of the batch where processes
    share it.
    """
    of, random = subject(at), Randomness(0)
    plan = plan_of(
        *method.plugins,
        net=of.net,
        num_classes=at.classes,
        options=method.options,
        threat=str(THREAT),
        random=random,
        attack=AttackConfig(steps=at.steps, step_size="2/255"),
    )
    optimizer = torch.optim.SGD(of.net.list_parameters(), lr=1e-6, momentum=0.9)
    step, whole = (
        step_of(of.net, plan, optimizer, THREAT, random),
        Batch(of.x, of.y, torch.arange(at.batch)),
    )
    batch, share = (
        (whole, None) if rows is None else (whole.rows(rows), RowShare(rows.start, at.batch))
    )

    def one() -> None:
        step(batch, 0, 0, 0.0, share)

    return Variant(one, lambda: None)


def expected_flop(method: Method, at: Point) -> float:
    """Floating-point operations of a step by the formula."""
    return (method.per_step * at.steps + method.fixed) * forward_flop(
        at
    ) + method.products * square_flop(at)


def expected_bytes(method: Method, at: Point) -> int:
    """Bytes at the peak of a step by the formula: what its graphs keep, gradients, and weights
    folded or perturbed.
    """
    return method.graphs * kept_bytes(at) + 2 * sum(
        parameter.nbytes for parameter in subject(at).module.parameters()
    )


@cache
def forward_flop(at: Point) -> int:
    """Floating-point operations of F: one forward pass of the batch."""
    of = subject(at)
    with torch.no_grad():
        return flop(lambda: of.module(of.x))


@cache
def square_flop(at: Point) -> int:
    """Floating-point operations of W W^T for every weight as a matrix with no more rows than
    columns.
    """
    layers = [
        part for part in subject(at).module.modules() if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    shapes = [layer.weight.flatten(1).shape for layer in layers]
    return sum(2 * rows**2 * columns for rows, columns in shapes if rows <= columns)


@cache
def kept_bytes(at: Point) -> int:
    """Bytes that a training forward of the batch keeps for its gradient, parameters not counted."""
    of, kept = subject(at), {}
    parameters = {parameter.data_ptr() for parameter in of.module.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _graph = of.net(of.x)  # holds what is kept, or one storage would take the place of another
    return sum(kept.values())
