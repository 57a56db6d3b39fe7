"""For tests: some steps of a training from given weights, batches and attack starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.context import StepContext, TrainerHooks
from abatis.api.randomness import Randomness, untouched
from abatis.config.plan_row import BUILT_IN, PlanRow
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError
from abatis.nets.module_state import read_tensors
from abatis.nets.net import Net
from abatis.testing.terms import TRAIN_SIZE, network_of, plan_of, step_of
from abatis.train.optimizer import make_optimizer
from abatis.train.plan import Plan
from abatis.train.step import Step, StepResult


@dataclass(frozen=True)
class Replayed:
    """What one step of :func:`replay` left behind. Its tensors are copies.

    Attributes:
        parameters: the parameters after the step, by name.
        buffers: the buffers after the step, by name; the running statistics among them.
        terms: the mean of every term without its weight, () each, by name, and the objective of
            the step as ``total``.
        x_adv: the images that the losses saw, (B, C, H, W).
        info: what the attacker reported, by name: (B,) each.
        auxiliaries: parameters and buffers of the auxiliary networks that are trained, by the name
            of the network.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    terms: dict[str, Tensor]
    x_adv: Tensor
    info: dict[str, Tensor]
    auxiliaries: dict[str, dict[str, Tensor]]

    @property
    def total(self) -> Tensor:
        """The objective of the step, (): the sum over terms of weight times mean."""
        return self.terms["total"]


def replay(
    plugins: Sequence[object] | str,
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    options: Mapping[str, Any] | None = None,
    threat: str = "Linf:8/255",
    also_train: Sequence[str] = (),
    attack: object = None,
    optim: object = None,
    statistics: object = None,
    clip_grad: float = 0.0,
    use: Mapping[str, str] | None = None,
    start: Sequence[Tensor] | None = None,
    epoch: int = 0,
    step: int = 0,
    accumulate: int = 1,
    dtype: torch.dtype = torch.float64,
) -> list[Replayed]:
    """Train a model on given batches with the step of a run; return everything after each step.

    Compare it with a trajectory of another implementation, to find the first step and tensor that
    differ. The model is trained in place, as the plugins change it; the optimizer starts without
    momentum. No schedule is applied, and ``ctx.progress`` is 0. The global random generators are
    left as they were.

    Args:
        plugins: plugins, by name or module; none for adversarial training.
        model: a module on images in [0, 1]; it is left in training mode.
        batches: one a step, with images (B, C, H, W).
        options: ``{"beta": 5}`` for one plugin, ``{"a": {"beta": 5}, "b": {...}}`` for several.
        threat: norm and radius.
        also_train: further threats of the training attack.
        attack: the options ``--attack.*`` as a recipe has them, ``{"steps": 10, "bn": "train"}``.
        optim: the options ``--optim.*``; every step has the rate ``lr``.
        statistics: the options ``--statistics.*``: which forwards move the running statistics.
        clip_grad: the maximum norm of the gradient; 0 is off.
        use: who provides a role, like ``{"attacker": "none"}``.
        start: for each batch the noise that the attack starts at, (B, C, H, W), not drawn: the
            first iterate is x + noise, clipped to [0, 1] for ``attack.start = "uniform"``.
        epoch: the epoch of all steps, from 0.
        step: the number of the first step, from 0.
        accumulate: micro-batches per update.
        dtype: the type that the model and the images are converted to.

    Raises:
        UsageError: options that do not fit together, or starts that the attack cannot use.
        PluginError: a plugin failed, or broke its contract.
    """
    given = _keep_given(attack=attack, optim=optim, statistics=statistics)
    given |= {"threat": threat, "also_train": also_train, "clip_grad": clip_grad}
    config = RunConfig(accumulate=accumulate, **given)
    names = (plugins,) if isinstance(plugins, str) else tuple(plugins)
    batches = [replace(batch, x=batch.x.to(dtype)) for batch in batches]
    with untouched():
        classes = _count_classes(model.to(dtype), batches)
        model = network_of(*names, module=model, num_classes=classes, options=options)
        replayed = _Replay(Net(model.to(dtype).train()), names, config, batches, options, use)
        return replayed.run(start, epoch, step)


def _keep_given(**tables: object) -> dict[str, Any]:
    """The tables of options that were given."""
    return {name: table for name, table in tables.items() if table is not None}


def _count_classes(model: nn.Module, batches: Sequence[Batch]) -> int:
    """How many logits a model makes of the first image; 0 where there is none."""
    with torch.no_grad():
        return int(model.eval()(batches[0].x[:1]).shape[1]) if batches else 0


class _GivenStart:
    """Gives the attack the noise of the rows that it is called for."""

    def __init__(self, starts: Sequence[Tensor] | None, first: int, random: Randomness) -> None:
        self.starts, self.first, self.random = starts, first, random
        self.used = False

    def __call__(self) -> Tensor:
        assert self.starts is not None
        self.used = True
        return self.starts[self.random.step - self.first][self.random.rows]

    @contextmanager
    def require_use(self) -> Iterator[None]:
        """Around a step: raise UsageError where the attack does not start at the given noise."""
        self.used = False
        yield
        if self.starts is not None and not self.used:
            raise UsageError(
                "start was given, and the attack of this training does not begin with"
                " abatis.random_start",
                fix="leave start out",
            )


class _Recorder(TrainerHooks):
    """Keeps the adversarial images of the latest step, and what the attacker said of them."""

    x_adv: Tensor
    info: dict[str, Tensor]

    def after_update(self, ctx: StepContext) -> None:
        self.x_adv, self.info = ctx.x_adv.detach().clone(), _copy(ctx.info.items())

    def record(self, net: Net, result: StepResult) -> Replayed:
        """What the step that has just ended left behind."""
        module, others = net.module, net.auxiliaries.items()
        return Replayed(
            _copy(module.named_parameters()),
            _copy(module.named_buffers()),
            {**result.terms, "total": result.total.detach()},
            self.x_adv,
            self.info,
            {
                name: _copy(read_tensors(one.module).items())
                for name, one in others
                if one.is_trained
            },
        )


def _copy(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named}


class _Replay:
    """One training that is replayed.

    Args:
        net: the network.
        plugins: names or modules.
        config: the options of the core.
        batches: in the type of the network.
        options: those of the plugins.
        use: who provides a role, by role.
    """

    def __init__(
        self,
        net: Net,
        plugins: Sequence[object],
        config: RunConfig,
        batches: Sequence[Batch],
        options: Mapping[str, Any] | None,
        use: Mapping[str, str] | None,
    ) -> None:
        _check_ramp(config)
        if not batches:
            raise UsageError("no batches were given", fix="give one batch for each step")
        self.net, self.config, self.batches = net, config, batches
        self.plugins, self.options, self.use = plugins, options, use

    def run(self, start: Sequence[Tensor] | None, epoch: int, first: int) -> list[Replayed]:
        """Make all steps; their numbers begin with ``first``."""
        starts = None if start is None else _check_starts(start, self.batches, self.config)
        random, recorder = Randomness(0), _Recorder()
        given = _GivenStart(starts, first, random)
        plan = self._make_plan(random, None if starts is None else given)
        row = PlanRow("trainer", "recorder", BUILT_IN, {})
        stepper = self._make_step(plan.with_trainer("recorder", recorder, row), random)
        found = []
        for number, batch in enumerate(self.batches, start=first):
            with given.require_use():
                result = stepper(batch, number, epoch, 0.0)
            found.append(recorder.record(self.net, result))
        return found

    def _make_plan(self, random: Randomness, given: _GivenStart | None) -> Plan:
        with torch.no_grad(), self.net.frozen_mode():
            classes = self.net.module(self.batches[0].x[:1]).shape[1]
        places = max(int(batch.index.max()) + 1 for batch in self.batches)
        return plan_of(
            *self.plugins,
            net=self.net,
            num_classes=classes,
            options=self.options,
            use=self.use,
            threat=self.config.threat,
            also_train=self.config.also_train,
            attack=self.config.attack,
            random=random,
            train_size=max(TRAIN_SIZE, places),
            given_start=given,
        )

    def _make_step(self, plan: Plan, random: Randomness) -> Step:
        config = self.config
        return step_of(
            self.net,
            plan,
            make_optimizer(config.optim, self.net.list_modules()),
            config.threat_model,
            random,
            batch_statistics=config.attack.bn == "train",
            accumulate=config.accumulate,
            clip_grad=config.clip_grad,
            statistics=config.statistics,
        )


def _check_starts(
    start: Sequence[Tensor], batches: Sequence[Batch], config: RunConfig
) -> list[Tensor]:
    """The starts in the type of the images; raises UsageError where they do not fit them."""
    shapes = [tuple(noise.shape) for noise in start]
    wanted = [tuple(batch.x.shape) for batch in batches]
    if shapes != wanted:
        raise UsageError(
            f"start has tensors of shape {shapes}, the batches images of shape {wanted}",
            fix="give one noise tensor like the images for each batch",
        )
    if config.attack.start == "none":
        raise UsageError("start was given, and attack has start = none", fix="leave start out")
    return [noise.to(batch.x) for noise, batch in zip(start, batches, strict=True)]


def _check_ramp(config: RunConfig) -> None:
    """Raise UsageError for a step size that depends on the length of the training."""
    if config.attack.ramp:
        raise UsageError(
            "attack.ramp grows the step size over a training, and a replay has no length",
            fix="leave ramp out, and give the step size of these steps",
        )
