"""The nouns of a training step: what plugins receive and what they return.

No torch at run time: options and hooks of a plugin must be importable without it.
B is the batch size of this call, K the number of classes, N the size of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from abatis.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from abatis.config import PluginConfig
    from abatis.net import Net
    from abatis.randomness import Randomness

Config = TypeVar("Config", bound="PluginConfig")
Made = TypeVar("Made")

NORMS = ("Linf", "L2", "L1")


def ratio(text: str | float) -> float:
    """``"8/255"`` or ``0.031`` as a float; raises ValueError where it is neither."""
    try:
        return float(Fraction(str(text).replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{text!r} is not a number; write it like 8/255 or 0.031") from error


@dataclass(frozen=True)
class Threat:
    """What the attacker may do: a norm and its radius in pixel units of [0, 1]; ``text`` keeps the radius as written.

    L1 is for evaluation by AutoAttack; training and PGD know Linf and L2.
    """

    norm: str
    eps: float
    text: str

    @classmethod
    def parse(cls, text: str) -> Threat:
        """Read ``"Linf:8/255"``; raises UsageError."""
        norm, colon, eps_text = text.partition(":")
        names = {known.lower(): known for known in NORMS}
        if not colon or norm.lower() not in names:
            hint = did_you_mean(norm, NORMS) if norm.lower() not in names else "the radius is missing"
            raise UsageError(f"threat {text!r}: {hint}", fix="write norm and radius, like Linf:8/255 or L2:0.5")
        try:
            eps = ratio(eps_text)
        except ValueError as error:
            raise UsageError(f"threat {text!r}: {error}", fix="write norm and radius, like Linf:8/255") from error
        norm = names[norm.lower()]
        if not 0 <= eps < float("inf") or (norm == "Linf" and eps > 1):
            raise UsageError(
                f"threat {text!r}: a radius of {eps:g} is outside [0, 1], the range of the pixels",
                fix=f"pixels are in [0, 1]: {norm}:{eps_text}/255 perhaps?",
            )
        return cls(norm, eps, eps_text.replace(" ", ""))

    def __str__(self) -> str:
        return f"{self.norm}:{self.text}"


@dataclass(frozen=True)
class Batch:
    """One batch of images.

    x: (B, C, H, W) float in [0, 1]; y: (B,) int64; index: (B,) int64, positions in the training set;
    y_soft: (B, K) label distributions where labels were mixed or smoothed, y then being the heaviest of each;
    origin: (B,) int64 where there are several sources, 0 for the training set and 1 for additional images, whose index goes on
    behind the training set's.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    y_soft: Tensor | None = None
    origin: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def target(self) -> Tensor:
        """What a cross-entropy compares with: the soft labels (B, K) where there are any, else the hard ones (B,)."""
        return self.y if self.y_soft is None else self.y_soft

    def rows(self, rows: slice) -> Batch:
        """The batch of some rows."""
        soft = None if self.y_soft is None else self.y_soft[rows]
        origin = None if self.origin is None else self.origin[rows]
        return Batch(self.x[rows], self.y[rows], self.index[rows], soft, origin)


@dataclass(frozen=True)
class Attacked:
    """What an attacker returns: x (B, C, H, W), detached, in [0, 1] and in the ball; info: named per-sample tensors (B,)."""

    x: Tensor
    info: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """One summand of the objective; the engine alone forms ``weight * value.mean()``.

    value: (B,) unreduced, or () where it has no per-sample meaning; reweight: may a wrapper scale it sample by sample?
    """

    value: Tensor
    weight: float = 1.0
    reweight: bool = False


Terms = Mapping[str, Term]
"""Named summands; the names become the names of the metrics."""


def total(terms: Terms) -> Tensor:
    """``sum(weight * value.mean())`` over the terms: the only reduction in the program."""
    return sum((term.weight * term.value.mean() for term in terms.values()), start=0.0)  # type: ignore[return-value]


@dataclass
class StepContext:
    """Everything a loss or a regularizer may look at, for one batch.

    x_adv: (B, C, H, W), detached; info: what the attacker reported, (B,) each; epoch and step count from 0;
    progress: share of the training done, in [0, 1); global_size: N, the samples of all processes and micro-batches.
    """

    batch: Batch
    x_adv: Tensor
    info: Mapping[str, Tensor]
    net: Net
    step: int
    epoch: int
    progress: float
    global_size: int
    clean_first: bool = False
    gatherer: Callable[[Tensor], Tensor] | None = None

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
        from abatis.processes import summed  # types come first

        return summed(tensors)


Forward = Callable[["Tensor"], "Tensor"]
"""Images (B, C, H, W) in [0, 1] to logits (B, K)."""


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

    net: Net
    num_classes: int
    epochs: int
    steps_per_epoch: int
    threat: Threat
    device: torch.device
    attack: Any
    random: Randomness
    options: Mapping[type[PluginConfig], PluginConfig]
    train_size: int
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
        from abatis.processes import gathered  # types come first

        values = values.detach()
        return gathered(values, self.random.global_size or len(values))

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
