"""What plugins receive from a training step, and the callables they return.

Loads without torch, so that a plugin's options and hooks do too. In the shapes, B is the number of
images of one call, N that of the global batch, and K the number of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from abatis.api.batch import Attacked, Batch
from abatis.api.term import Terms
from abatis.api.threat import Threat
from abatis.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor, nn


Forward = Callable[["Tensor"], "Tensor"]
"""A network as a function: images (B, C, H, W) in [0, 1] to logits (B, K)."""


class Network(Protocol):
    """The network as plugins see it. Images are (B, C, H, W) in [0, 1], logits (B, K)."""

    @property
    def module(self) -> nn.Module:
        """The torch module."""

    def __call__(self, x: Tensor) -> Tensor:
        """Run the training forward pass: images (B, C, H, W) to logits (B, K)."""

    def features(self, x: Tensor) -> Tensor:
        """Run a forward pass as a call does, and return the features (B, D) in place of logits.

        The features are what the layer that makes the logits gets.

        Raises:
            PluginError: the network has no such layer.
        """

    def with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a forward pass as a call does: logits (B, K) and features (B, D)."""

    def frozen(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) in eval mode, with running batch-norm statistics.

        They are twice differentiable in the images and the parameters, for penalties on input
        gradients.
        """

    def attack_mode(self, batch_statistics: bool = False) -> AbstractContextManager[None]:
        """Set the network up for an attack: eval mode, and gradients go to the input only.

        Args:
            batch_statistics: let batch norms use the statistics of the batch; their running
                statistics are restored afterwards.
        """


@dataclass
class StepContext:
    """What a loss, a regularizer or a trainer hook sees of one training step.

    Attributes:
        batch: the images after ``transform_batch``, with labels.
        x_adv: the adversarial images, (B, C, H, W) in [0, 1], detached.
        info: what the attacker reported, by name: (B, ...) each.
        net: the network.
        step: the training step, from 0.
        epoch: the epoch, from 0.
        progress: the share of the training that is done, in [0, 1).
        global_size: N, the number of images of all processes and micro-batches together.
        clean_first: does the clean forward pass come before the adversarial one?
        gatherer: set by the engine; call ``gather``.
        summer: set by the engine; call ``sum_over_processes``.
        forwards: the order of the training forwards, ``clean`` and ``adv``, where the run fixes
            it; the engine makes them before the losses.
        images: further images of the attacker, by name: (B, C, H, W) in [0, 1] each, detached.
        keeps_features: do the forward passes keep the features, because a plugin needs them?
    """

    batch: Batch
    x_adv: Tensor
    info: Mapping[str, Tensor]
    net: Network
    step: int
    epoch: int
    progress: float
    global_size: int
    clean_first: bool = False
    gatherer: Callable[[Tensor], Tensor] | None = None
    summer: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    forwards: Sequence[str] = ()
    images: Mapping[str, Tensor] = field(default_factory=dict)
    keeps_features: bool = False
    _logits: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _features: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def logits_clean(self) -> Tensor:
        """Logits at the clean images, (B, K), in training mode; computed once."""
        return self._run("clean", self.batch.x)

    @cached_property
    def logits_adv(self) -> Tensor:
        """Logits at the adversarial images, (B, K), in training mode; computed once.

        Without an attack they are the very same tensor as ``logits_clean``.
        """
        if self.x_adv is self.batch.x:
            return self.logits_clean
        self._begin()
        return self._run("adv", self.x_adv)

    def logits(self, name: str) -> Tensor:
        """Logits at the further images ``ctx.images[name]``, (B, K), in training mode.

        Computed once, at the first call.

        Raises:
            PluginError: the attacker gave no such images.
        """
        if name not in self._logits:
            if name not in self.images:
                raise PluginError(
                    f"ctx.logits('{name}'): the attacker gave no images of this name, but "
                    f"{', '.join(self.images) or 'none'}",
                    fix="Attacked(x, images={'name': further_x}); clean and adversarial ones have "
                    "ctx.logits_clean and ctx.logits_adv",
                )
            self._begin()
            self._logits[name] = self._run(name, self.images[name])
        return self._logits[name]

    @property
    def features_clean(self) -> Tensor:
        """Features at the clean images, (B, D): of the forward pass of ``logits_clean``."""
        _ = self.logits_clean
        return self._find_features("clean")

    @property
    def features_adv(self) -> Tensor:
        """Features at the adversarial images, (B, D): of the forward pass of ``logits_adv``."""
        _ = self.logits_adv
        return self._find_features("clean" if self.x_adv is self.batch.x else "adv")

    def features(self, name: str) -> Tensor:
        """Features at further images, (B, D): of the forward pass of ``logits(name)``."""
        self.logits(name)
        return self._find_features(name)

    def place_outputs(self, logits: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> None:
        """Set logits of further images and features, by name; tests do so."""
        self._logits.update(logits)
        self._features.update(features)

    def _begin(self) -> None:
        """Before other images: batch statistics depend on the order of the forward passes."""
        if self.clean_first and not self.forwards:
            _ = self.logits_clean

    def _run(self, name: str, x: Tensor) -> Tensor:
        """One training forward pass; its features are kept where a plugin needs them."""
        if not self.keeps_features:
            return self.net(x)
        logits, self._features[name] = self.net.with_features(x)
        return logits

    def _find_features(self, name: str) -> Tensor:
        if name not in self._features:
            raise PluginError(
                "the forward passes of this run keep no features",
                fix="add the property needs_features, which returns True, to the options class of "
                "the plugin that reads them",
            )
        return self._features[name]

    def gather(self, values: Tensor) -> Tensor:
        """Collect the values of the whole global batch, for terms that couple samples.

        Every process and micro-batch must make the same calls in the same order.

        Args:
            values: the values of this call's samples, (B, ...).

        Returns:
            The values of all samples, (N, ...), detached.
        """
        detached = values.detach()
        return detached if self.gatherer is None else self.gatherer(detached)

    def sum_over_processes(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sum tensors over all processes, for trainer hooks.

        ``objective()`` in ``before_loss`` has this process's share of the objective, so a gradient
        of it must be summed. Every process must make the same calls in the same order.

        Args:
            tensors: tensors of one type on one device.

        Returns:
            The sums, detached, in the same shapes.
        """
        detached = [tensor.detach() for tensor in tensors]
        return detached if self.summer is None else self.summer(detached)


class Objective(Protocol):
    """The objective of a step, computed again for ``before_loss``; every call is a new one.

    It is about all rows of this process, on the same adversarial images. The buffers of the network
    stay as they are.
    """

    def __call__(self) -> Tensor:
        """Return this process's share of the run's total, ()."""

    def terms(self) -> Terms:
        """Return the terms of the total, by name, their values not reduced.

        A value is (B,) in the order of ``ctx.batch``, or () where a term has no value per sample.
        The share of the total is ``sum(weight * value.mean())`` times ``B / ctx.global_size``.
        """


class Attacker(Protocol):
    """The attack of the training step.

    An attacker that leaves the ball by design has an attribute ``reach``, the multiple of eps that
    it may go to.
    """

    def __call__(self, forward: Forward, batch: Batch, /) -> Attacked:
        """Make adversarial images.

        Args:
            forward: the network in eval mode, with frozen parameters.
            batch: images and labels.
        """


class Loss(Protocol):
    """The base loss."""

    def __call__(self, ctx: StepContext, /) -> Terms:
        """Return the terms of the loss, by name."""


class Regularizer(Protocol):
    """Terms that are added to the base loss."""

    def __call__(self, ctx: StepContext, /) -> Terms:
        """Return the terms to add, by name."""


class AdaptiveAttack(Protocol):
    """An attack made against one particular defense, which the evaluation runs."""

    def __call__(self, forward: Forward, batch: Batch, threat: Threat, /) -> Tensor:
        """Make adversarial images, (B, C, H, W).

        An image counts only if the network misclassifies it in the evaluation's own forward pass.

        Args:
            forward: the network as it is judged, differentiable in the images.
            batch: images and labels.
            threat: norm and radius.
        """


class TrainerHooks:
    """Callbacks around the update. Override what you need; every method does nothing by default."""

    def transform_batch(self, batch: Batch) -> Batch:
        """Change the batch before the attack.

        Returns:
            As many images as before, in [0, 1]. Mixed labels go into ``y_soft``.
        """
        return batch

    def before_loss(self, ctx: StepContext, objective: Objective) -> None:
        """Act after the attack and before the backward pass.

        Args:
            ctx: the step, with all rows of this process.
            objective: computes the run's total, (), again on the same adversarial images;
                ``objective.terms()`` gives its terms, not reduced. The buffers of the network
                stay as they are.
        """

    def after_update(self, ctx: StepContext) -> None:
        """Act after the optimizer's step."""

    def epoch_end(self, epoch: int) -> None:
        """Act after the last step of an epoch, before validation. Epochs count from 0."""

    def judged(self) -> nn.Module | None:
        """Return the network whose weights are validated, kept as the best, saved and evaluated.

        Asked after ``epoch_end``, of one provider in a run. The module has the structure of
        ``run.net.module`` and the same weights in every process.

        Returns:
            Such a module, or None for the weights that are trained.
        """
        return None

    def metrics(self, values: Mapping[str, float]) -> None:
        """Receive the numbers of an epoch, in the first process only.

        Args:
            values: a line of ``metrics.jsonl``, or at last the numbers of the evaluation;
                ``values["epoch"]`` counts from 1.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep: numbers, strings, lists, dicts and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
