"""What plugins receive from a run and from a training step, and the callables they return.

Loads without torch, so that a plugin's options and hooks do too.
B is the batch size of this call, K the number of classes, N the size of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from abatis.api.batch import Attacked, Batch
from abatis.api.term import Terms
from abatis.api.threat import Threat
from abatis.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from abatis.api.options import PluginConfig
    from abatis.api.randomness import Randomness

Config = TypeVar("Config", bound="PluginConfig")
Made = TypeVar("Made")

Forward = Callable[["Tensor"], "Tensor"]
"""Images (B, C, H, W) in [0, 1] to logits (B, K)."""


class Network(Protocol):
    """The network as plugins see it. Images are (B, C, H, W) in [0, 1], logits (B, K)."""

    @property
    def module(self) -> nn.Module:
        """The torch module itself."""

    def __call__(self, x: Tensor) -> Tensor:
        """The training forward: x to logits."""

    def frozen(self, x: Tensor) -> Tensor:
        """Logits with eval statistics, twice differentiable in x and the parameters."""

    def attack_mode(self, batch_statistics: bool = False) -> AbstractContextManager[None]:
        """Around an attack of your own: eval mode, and gradients go to the input only."""


@dataclass
class StepContext:
    """Everything a loss or a regularizer may look at, for one batch.

    x_adv: (B, C, H, W), detached; info: what the attacker reported, (B,) each; epoch and step count from 0;
    progress: share of the training done, in [0, 1); global_size: N, the samples of all processes and micro-batches.
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

    @cached_property
    def logits_clean(self) -> Tensor:
        """(B, K) logits at the clean images; computed once, in training mode."""
        return self.net(self.batch.x)

    @cached_property
    def logits_adv(self) -> Tensor:
        """(B, K) logits at the adversarial images; computed once. The very same tensor as the clean ones without an attack."""
        if self.x_adv is self.batch.x:
            return self.logits_clean
        if self.clean_first:
            _ = self.logits_clean  # batch statistics depend on the order of the two forwards
        return self.net(self.x_adv)

    def gather(self, values: Tensor) -> Tensor:
        """Detached (N, ...) values of the whole global batch, from this call's (B, ...) ones; for whatever couples samples.

        Every process and micro-batch must make the same calls in the same order.
        """
        detached = values.detach()
        return detached if self.gatherer is None else self.gatherer(detached)

    def sum_over_processes(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Detached sums over all processes, for trainer hooks: each process has the gradient of its share of the objective."""
        detached = [tensor.detach() for tensor in tensors]
        return detached if self.summer is None else self.summer(detached)


class Attacker(Protocol):
    """Makes adversarial images. ``forward`` is the network as the attack may see it: parameters frozen, modes set.

    An attacker that leaves the ball by design has an attribute ``reach``, the multiple of eps it may go to.
    """

    def __call__(self, forward: Forward, batch: Batch, /) -> Attacked: ...


class Loss(Protocol):
    """The terms of the base loss."""

    def __call__(self, ctx: StepContext, /) -> Terms: ...


class Regularizer(Protocol):
    """Terms that are added to the base loss."""

    def __call__(self, ctx: StepContext, /) -> Terms: ...


class AdaptiveAttack(Protocol):
    """An attack made against one defense in particular, run by the evaluator: adversarial images (B, C, H, W).

    ``forward`` is the network as it is judged, differentiable in the images. What does not hold outside is not counted.
    """

    def __call__(self, forward: Forward, batch: Batch, threat: Threat, /) -> Tensor: ...


class TrainerHooks:
    """What a plugin may do around the update. Every method is optional; these do nothing."""

    def transform_batch(self, batch: Batch) -> Batch:
        """Change the batch before the attack; the result must stay in [0, 1]."""
        return batch

    def before_loss(self, ctx: StepContext, objective: Callable[[], Tensor]) -> None:
        """Inside the step, after the attack. ``objective()`` recomputes the run's total () on the same adversarial
        images without touching the buffers of the network."""

    def after_update(self, ctx: StepContext) -> None:
        """After the optimizer's step."""

    def epoch_end(self, epoch: int) -> None:
        """After the last step of an epoch, before validation."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """In the first process alone, the numbers of an epoch as metrics.jsonl has them, and last those of the evaluation;
        ``values["epoch"]`` counts from 1."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: plain numbers, strings, lists, dicts and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""


@dataclass(frozen=True)
class Run:
    """What a hook may know of the run when it makes its callable.

    random: the step's draws, for whoever draws per sample; attack: the options of the built-in attack (steps, step_size,
    start), for attackers that share them; train_size: how many training images there are, those held out
    and additional ones included, so that ``Batch.index`` is below it; 0 where none were opened (--dry-run, evaluation).
    """

    net: Network
    num_classes: int
    epochs: int
    steps_per_epoch: int
    threat: Threat
    device: torch.device
    attack: Any
    random: Randomness
    options: Mapping[type[PluginConfig], PluginConfig]
    train_size: int
    gatherer: Callable[[Tensor, int], Tensor] | None = None
    _shared: dict[Callable[[Run], Any], Any] = field(default_factory=dict, repr=False)

    def shared(self, make: Callable[[Run], Made]) -> Made:
        """``make(run)``, made once in a run: one object that several hooks of a plugin work with."""
        if make not in self._shared:
            self._shared[make] = make(self)
        made: Made = self._shared[make]
        return made

    def gather(self, values: Tensor) -> Tensor:
        """Detached (N, ...) values of the whole global batch, from this process's (B, ...) ones; for ``transform_batch``.

        Every process must make the same calls in the same order.
        """
        values = values.detach()
        return (
            values
            if self.gatherer is None
            else self.gatherer(values, self.random.global_size or len(values))
        )

    @property
    def ramp(self) -> float:
        """How far the steps of the attack have grown, in (0, 1], at the step that ``random`` stands at."""
        growing = self.attack.ramp * self.epochs * self.steps_per_epoch  # steps
        return min(1.0, float((self.random.step + 1) / (growing + 1)))

    @property
    def step_size(self) -> float:
        """Length of a step of the attack now, in pixel units."""
        length: float = self.attack.step(self.threat)
        return length * self.ramp

    def config(self, config_class: type[Config]) -> Config:
        """The run's options of one plugin, asked for by the class that ``defense_config`` returns."""
        found = self.options.get(config_class)
        if not isinstance(found, config_class):
            raise UsageError(
                f"no options of type {config_class.__name__} in this run",
                fix="return that very class from the plugin's defense_config hook",
            )
        return found
