"""A training step and a step of the evaluation on tensors without values, to count what they cost.

torch's fake tensors have shapes, types and lifetimes, but no memory and no values. So a step of any
size is counted in about a second, whatever the machine.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from abatis.api.ball import Ball
from abatis.api.batch import Batch
from abatis.api.context import Network
from abatis.config import discovery
from abatis.config.run_config import RunConfig
from abatis.data import DataInfo
from abatis.evaluate.pgd import differentiate
from abatis.nets.auxiliaries import add_auxiliary
from abatis.nets.backbones import switch_checkpointing
from abatis.nets.folding import find_folding
from abatis.nets.net import Net
from abatis.runs.network import build_auxiliary, make_run
from abatis.runs.prepare import add_own_trainers
from abatis.system.cost_meter import CostMeter
from abatis.train.optimizer import make_optimizer
from abatis.train.plan import make_plan, read_use
from abatis.train.side_effect_checks import SideEffectChecks
from abatis.train.step import Step
from abatis.train.step_setup import StepSetup

PATIENCE = 60.0  # CPU seconds; some methods make tens of thousands of operations in a step
CPU = torch.device("cpu")


@dataclass(frozen=True)
class StepCost:
    """What a step of one process costs.

    Attributes:
        memory: most bytes in a training step: weights, moments, gradients, activations, images.
        evaluation: most bytes in a step of the evaluation, with what the training still holds.
        images: rows of the process in a batch.
        flop: floating-point operations of a training step, by type.
        forward: those of one forward pass on its images.
        moved: bytes that the other operations of a training step read and write.
        launches: operations of a training step.
    """

    memory: int
    evaluation: int
    images: int
    flop: dict[torch.dtype, int]
    forward: int
    moved: int
    launches: int

    @property
    def passes(self) -> float:
        """A training step in forward passes."""
        return sum(self.flop.values()) / max(1, self.forward)


def count_step(
    config: RunConfig, info: DataInfo, net: Net, evaluation_batch: int, processes: int = 1
) -> StepCost:
    """Count a training step of the last epoch, and a step of the evaluation.

    Args:
        config: the run.
        info: the facts of its data.
        net: the network, which is left as it is, in the layout that its passes use.
        evaluation_batch: images at a time in the evaluation.
        processes: that share a batch.

    Raises:
        Exception: something in the step reads a value, as plugins that select images do.
    """
    device = next(net.module.parameters()).device
    on_cpu = config.forecast in ("none", "here") and device.type == "cpu"
    meter = CostMeter(PATIENCE, on_cpu)
    images = -(-config.batch_size // processes)
    unreal = FakeTensorMode(allow_non_fake_inputs=True)
    with _silence(), unreal, meter:
        fake = _copy_net(config, info, net)
        step = _make_step(config, info, fake)
        batch = _make_batch(info, images)
        for number in (1, 2):  # the first one makes the optimizer's moments
            meter.restart()
            step(batch, number, config.epochs - 1, 0.5)
        memory, flop, moved, launches = meter.peak, dict(meter.flop), meter.moved, meter.launches
        meter.restart()
        with torch.no_grad():
            fake(batch.x)
        forward = sum(meter.flop.values())
        del batch
        meter.restart()
        _evaluate(config, fake, _make_batch(info, evaluation_batch))
    gradients = sum(p.numel() * p.element_size() for p in fake.list_parameters())
    buckets = gradients if processes > 1 else 0  # what several processes exchange
    return StepCost(memory + buckets, meter.peak, images, flop, forward, moved, launches)


@contextmanager
def _silence() -> Iterator[None]:
    """Without torch's warning of a copied tensor that has no memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield


def _copy_net(config: RunConfig, info: DataInfo, net: Net) -> Net:
    """The same network with parameters and buffers that have no values."""
    memo: dict[int, object] = {}
    for tensor in (*net.module.parameters(), *net.module.buffers()):
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CPU)
        if isinstance(tensor, nn.Parameter):
            made = nn.Parameter(made, tensor.requires_grad)
        memo[id(tensor)] = made
    module = copy.deepcopy(net.module, memo)
    switch = partial(switch_checkpointing, module) if config.grad_checkpointing else None
    fake = Net(module, config.precision, config.attack.precision, switch)
    return tune_alike(fake, net, torch.empty(2, info.channels, info.image_size, info.image_size))


def tune_alike(fake: Net, net: Net, x: Tensor) -> Net:
    """Make the passes of a network without values as those of another one were tuned."""
    fake._format = net._format
    if net._folding is not None:
        with fake.frozen_mode(), torch.no_grad():
            fake._folding = find_folding(fake.module, lambda: fake.module(x))
        fake._folded_type = net._folded_type
    fake.use_layout(net.layout, step=False)
    return fake


def _make_step(config: RunConfig, info: DataInfo, net: Net) -> Step:
    """The training step, with checks that read nothing."""
    run = make_run(config, info.num_classes, CPU)
    run.place_net(net)
    run.place_adder(partial(add_auxiliary, net, partial(build_auxiliary, config, info, CPU)))
    loaded = discovery.load_plugins(config.plugin)
    plan = make_plan(loaded, config.options, read_use(config.use, loaded), run)
    plan = replace(add_own_trainers(plan, config, net, run), side_effects=_Unchecked())
    net.train()
    setup = StepSetup(
        net,
        plan,
        config.threat_model,
        run.random,
        batch_statistics=config.attack.bn == "train",
        accumulate=config.accumulate,
        clip_grad=config.clip_grad,
        deferred=True,
        statistics=config.statistics,
    )
    optimizer = make_optimizer(config.optim, net.list_modules())
    optimizer.register_step_pre_hook(_drop_flag)
    return Step(setup, optimizer)


def _drop_flag(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Remove the flag of the deferred checks, which only a fused update knows."""
    vars(optimizer).pop("found_inf", None)


def _make_batch(info: DataInfo, images: int) -> Batch:
    x = torch.rand(images, info.channels, info.image_size, info.image_size)
    return Batch(x, torch.arange(images) % info.num_classes, torch.arange(images))


def _evaluate(config: RunConfig, net: Net, batch: Batch) -> None:
    """One step of PGD as the evaluation makes it, with the images that it keeps."""
    judged = tune_alike(Net(net.module), net, batch.x[:2])
    with judged.attack_mode():
        ball = Ball(batch.x, config.threat_model)
        found, point = batch.x.clone(), batch.x.clone()

        def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(logits, y, reduction="none")

        _, _, gradient = differentiate(judged, point, batch.y, cross_entropy)
        if ball.norm != "L1":
            found.copy_(ball.climb(point, gradient, 0.1))


class _Unchecked(SideEffectChecks):
    """No call is checked: that would read values."""

    @contextmanager
    def watch(self, plugin: str, role: str, net: Network, **tensors: Tensor) -> Iterator[bool]:
        yield False
