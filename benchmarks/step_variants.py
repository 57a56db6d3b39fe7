"""The training steps that are compared: ours, plain loops, bare passes and other libraries'; and
the updates they make.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks import plain_loops as plain
from benchmarks import plain_margins
from benchmarks.side_by_side import ATTACK, Variant, flop
from benchmarks.step_peers import PEERS
from torch import Tensor, nn
from torch.profiler import record_function

from abatis.api.ball import Ball
from abatis.api.batch import Attacked, Batch
from abatis.api.context import Forward
from abatis.api.randomness import Randomness
from abatis.api.threat import Threat
from abatis.config.option_groups import AttackConfig
from abatis.data.statistics import CIFAR10_MEAN, CIFAR10_STD
from abatis.nets.backbones import build
from abatis.nets.layout import CONTIGUOUS
from abatis.nets.net import Net
from abatis.testing import plan_of, step_of
from abatis.train.builtin.pgd import NORMAL_START

THREAT = Threat.parse("Linf:8/255")
SIDE = 2048
PRODUCT = f"at: matrix product of {SIDE}"
Action = Callable[[], None]


@dataclass(frozen=True)
class Method:
    """What is composed, and the plain loop beside it."""

    plugins: tuple[str, ...] = ()
    loop: Callable[..., None] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    start: str = "uniform"
    attacker: str = ""  # empty: the one that the plugins bring, or the built-in one
    variants: tuple[str, ...] = ("float32",)


BOTH = ("float32", "bf16 attack")
FEW = {"iterations": plain_margins.ITERATIONS, "candidates": plain_margins.CANDIDATES}
METHODS = {
    "at": Method((), plain.at, variants=("without folding", *BOTH)),
    "at + average-margin": Method(("average-margin",)),
    "sovr": Method(("sovr",), plain.sovr, variants=BOTH),
    "emr": Method(("emr",), plain.emr, variants=BOTH),
    "at + amm": Method(("amm",), options=FEW),
    "awp": Method(("awp",), plain.awp, variants=BOTH),
    "trades": Method(("trades",), plain.trades, start="normal", variants=BOTH),
    "mart": Method(("mart",), plain.mart, start="normal", variants=BOTH),
    "mail": Method(("mail",), plain.mail, {"burn_in": 0}, start="normal", variants=BOTH),
    "amm": Method(("amm",), plain_margins.amm, FEW, attacker="none"),
    "average-margin": Method(("average-margin",), plain_margins.average_margin, attacker="none"),
    "jacobian, one projection": Method(("jacobian",), options={"at": "clean"}, attacker="none"),
    "jacobian, all classes": Method(
        ("jacobian",), options={"at": "clean", "projections": 0}, attacker="none"
    ),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32", "fold": True},
    "bf16 attack": {"precision": "bf16", "fold": True},
    "without folding": {"precision": "float32", "fold": False},
    "contiguous": {"precision": "float32", "fold": False, "layout": CONTIGUOUS},
    "folded, contiguous": {"precision": "float32", "fold": True, "layout": CONTIGUOUS},
}
LAYOUTS = ("float32", "without folding", "contiguous")


@dataclass(frozen=True)
class Subject:
    """A network that has begun to learn one batch: x (B, 3, H, W), y (B,)."""

    module: nn.Module
    x: Tensor
    y: Tensor

    def double(self, size: int) -> Subject:
        """The same in float64 with fewer images."""
        return Subject(copy.deepcopy(self.module).double(), self.x[:size].double(), self.y[:size])


def subject(backbone: str, batch: int, image_size: int = 32, updates: int = 15) -> Subject:
    """Random images and labels; a few updates give running statistics and margins a meaning."""
    torch.manual_seed(0)
    module = build(
        backbone,
        num_classes=10,
        channels=3,
        image_size=image_size,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
    )
    x, y = torch.rand(batch, 3, image_size, image_size), torch.randint(0, 10, (batch,))
    optimizer = sgd(module)
    for _ in range(updates):
        plain.update(module, optimizer, lambda: F.cross_entropy(module(x), y))
    optimizer.zero_grad()
    return Subject(module, x, y)


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    """The field's optimizer."""
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def our_step(
    method: Method, of: Subject, variant: str = "float32", batch_statistics: bool = False
) -> Action:
    """Our step on the network of a subject: the one place where its variants are built."""
    random, options = Randomness(0), VARIANTS[variant]
    net = Net(of.module, attack_precision=options["precision"])
    net.tune(of.x[:2], fold=options["fold"])
    net.use_layout(options.get("layout", net.layout))
    plan = plan_of(
        *method.plugins,
        net=net,
        num_classes=10,
        options=method.options,
        threat=str(THREAT),
        random=random,
        use={"attacker": method.attacker} if method.attacker else {},
        attack=AttackConfig(steps=plain.STEPS, step_size="2/255", start=method.start),
    )
    attacker = plan.attacker

    def recorded(forward: Forward, batch: Batch) -> Attacked:
        with record_function(ATTACK):
            return attacker(forward, batch)

    plan = replace(plan, attacker=recorded)
    step = step_of(net, plan, sgd(of.module), THREAT, random, batch_statistics=batch_statistics)
    batch = Batch(of.x, of.y, torch.arange(len(of.y)))

    def one() -> None:
        step(batch, 0, 0, 0.0)

    return one


def plain_step(method: Method, of: Subject, **options: Any) -> Action:
    """The plain loop on the network of a subject."""
    assert method.loop is not None
    return partial(method.loop, of.module, sgd(of.module), of.x, of.y, **options)


def bare_passes(of: Subject) -> Action:
    """The passes that adversarial training cannot do without, in the layout of ours, and nothing
    else.
    """
    layout = getattr(
        torch, Net(of.module).tune(of.x[:2])["layout"].replace("contiguous", "contiguous_format")
    )
    optimizer, x = sgd(of.module), of.x.contiguous(memory_format=layout)

    def passes() -> None:
        of.module.eval().requires_grad_(False)
        point = x.clone().requires_grad_()
        for _ in range(plain.STEPS):
            torch.autograd.grad(F.cross_entropy(of.module(point), of.y, reduction="sum"), [point])
        of.module.requires_grad_(True)
        plain.update(of.module, optimizer, lambda: F.cross_entropy(of.module(x), of.y))

    return passes


def matrix_product(of: Subject) -> Action:
    """As fast as the machine can multiply; only the precision is the subject's."""
    square = torch.rand(SIDE, SIDE, dtype=of.x.dtype)

    def product() -> None:
        square @ square

    return product


def all_variants(of: Subject) -> tuple[dict[str, Variant], dict[str, str]]:
    """Every step by "method: variant", on a network of its own; and why the absent libraries are
    absent.
    """
    makers: dict[str, Callable[[Subject], Action]] = {
        PRODUCT: matrix_product,
        "at: bare passes": bare_passes,
    }
    for name, method in METHODS.items():
        makers |= {
            f"{name}: {variant}": partial(our_step, method, variant=variant)
            for variant in method.variants
        }
        if method.loop is not None:
            makers[f"{name}: plain loop"] = partial(plain_step, method)
    makers |= {name: partial(peer_step, name) for name in PEERS}
    return make_steps(makers, of)


def make_steps(
    makers: Mapping[str, Callable[[Subject], Action]], of: Subject
) -> tuple[dict[str, Variant], dict[str, str]]:
    """Each step on a network of its own; and why those whose library is absent are absent."""
    found, absent, state = {}, {}, copy.deepcopy(of.module.state_dict())
    for name, make in makers.items():
        own = Subject(copy.deepcopy(of.module), of.x, of.y)
        try:
            found[name] = Variant(make(own), partial(restore, own.module, state))
        except ImportError as error:
            absent[name] = str(error)
    return found, absent


def layouts(method: Method, of: Subject) -> dict[str, Variant]:
    """Our step as it is, without folding, and without folding in contiguous memory."""
    state, found = copy.deepcopy(of.module.state_dict()), {}
    for variant in LAYOUTS:
        own = Subject(copy.deepcopy(of.module), of.x, of.y)
        found[variant] = Variant(
            our_step(method, own, variant), partial(restore, own.module, state)
        )
    return found


def restore(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Weights and running statistics as they were, and no gradient left."""
    module.load_state_dict(state)
    module.zero_grad()


def peer_step(name: str, of: Subject) -> Action:
    """Another library's step on the network of a subject; ImportError where it is absent."""
    return partial(PEERS[name].make(of.module, sgd(of.module)), of.x, of.y)


def units(of: Subject) -> dict[str, float]:
    """The work of every step, in forward passes of the batch."""
    forward = forward_flop(of)
    steps, _ = all_variants(of)
    return {
        name: round(flop(step.call) / forward, 2) for name, step in steps.items() if name != PRODUCT
    }


def forward_flop(of: Subject) -> int:
    """Floating-point operations of one forward pass of the batch."""
    with torch.no_grad():
        return flop(lambda: of.module(of.x))


def stored_start(method: Method, x: Tensor) -> Tensor:
    """Where our attack begins in step 0 of seed 0: (B, C, H, W)."""
    random = Randomness(0)
    if method.start == "normal":
        return x + NORMAL_START * random.normal("attack/normal", x)
    return Ball(x, THREAT).uniform_start(random.uniform("attack/uniform", x))


def difference(method: Method, of: Subject, batch_statistics: bool) -> float:
    """Of the parameters after one step of ours and one of the plain loop, from the same start: the
    largest, absolute.
    """
    ours, theirs = (Subject(copy.deepcopy(of.module), of.x, of.y) for _ in range(2))
    our_step(method, ours, batch_statistics=batch_statistics)()
    plain_step(
        method, theirs, start=partial(stored_start, method), batch_statistics=batch_statistics
    )()
    return largest_difference(ours, theirs)


def peer_difference(name: str, of: Subject) -> float | None:
    """The same of another library's step and our plain loop, whose attack is in eval mode here as
    theirs are; None where it is not known where theirs begins. ImportError where it is absent.
    """
    draw = PEERS[name].start
    if draw is None:
        return None
    ours, theirs = (Subject(copy.deepcopy(of.module), of.x, of.y) for _ in range(2))
    torch.manual_seed(0)
    peer_step(name, theirs)()
    torch.manual_seed(0)
    plain_step(METHODS[name.partition(":")[0]], ours, start=draw, batch_statistics=False)()
    return largest_difference(ours, theirs)


def largest_difference(one: Subject, other: Subject) -> float:
    """Of all parameters, absolute."""
    pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)
