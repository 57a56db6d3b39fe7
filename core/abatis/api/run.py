"""What a hook knows about the run, and where the training is.

Loads without torch, so that a plugin's options and hooks do too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from abatis.api.context import Network
from abatis.api.threat import Threat
from abatis.errors import PluginError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from abatis.api.options import PluginConfig
    from abatis.api.randomness import Randomness

Config = TypeVar("Config", bound="PluginConfig")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Now:
    """Where the training is, as the ``StepContext`` of the same step says it.

    Attributes:
        step: the training step, from 0.
        epoch: the epoch, from 0.
        progress: the share of the training that is done, in [0, 1).
    """

    step: int = 0
    epoch: int = 0
    progress: float = 0.0


@dataclass
class Clock:
    """Holds where the training is; the engine moves it before every step."""

    now: Now = Now()


class NoNet:
    """In the place of the network as long as there is none."""

    def __getattr__(self, name: str) -> Any:
        raise PluginError(
            "run.net is not there yet: defense_network is asked before it is made",
            fix="use the module that the hook is given, or run.net in another hook",
        )


@dataclass(frozen=True)
class Run:
    """What a hook knows about the run when it makes its callable.

    Attributes:
        net: the network; not there yet in ``defense_network``.
        num_classes: K.
        epochs: how many epochs the run has.
        steps_per_epoch: how many updates an epoch has.
        threat: norm and radius of the training attack; the first one where there are several.
        device: where the network is.
        attack: the options ``--attack.*`` (steps, step_size, start), for attackers that share them.
        random: the random numbers of the current step.
        options: the options of all plugins by class; call ``config``.
        train_size: how many training images there are, held-out and additional ones included, so
            that ``Batch.index`` is below it. It is 0 if no data were opened (--dry-run and
            evaluation).
        gatherer: set by the engine; call ``gather``.
        given_start: set by tests: the noise that ``random_start`` adds to the images, instead of
            a drawn one.
        clock: moved by the engine; read ``now``.
        renewer: set by the engine; call ``restatistics``.
        adder: set by the engine; call ``auxiliary``.
        networks: set by the engine: the plugins that changed the network, in order.
        further: the threats of the training attack behind the first; read ``threats``.
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
    given_start: Callable[[], Tensor] | None = None
    clock: Clock = field(default_factory=Clock)
    renewer: Callable[[nn.Module], None] | None = None
    adder: Callable[[str, nn.Module | str, bool], Network] | None = None
    networks: list[str] = field(default_factory=list)
    further: tuple[Threat, ...] = ()
    _shared: dict[Callable[[Run], Any], Any] = field(default_factory=dict, repr=False)

    def shared(self, make: Callable[[Run], Made]) -> Made:
        """Return ``make(run)``, made once per run: one object for several hooks of a plugin.

        Args:
            make: a function or class; the same one returns the same object.
        """
        if make not in self._shared:
            self._shared[make] = make(self)
        made: Made = self._shared[make]
        return made

    @property
    def threats(self) -> tuple[Threat, ...]:
        """All threats of the training attack: that of ``--threat``, then those of --also-train."""
        return (self.threat, *self.further)

    @property
    def now(self) -> Now:
        """Where the training is: step, epoch and progress.

        It is that of the current step in ``transform_batch``, the attack, the losses and the
        trainer hooks, and that of the epoch's last step in ``epoch_end``. Read it inside the
        callable, not in the hook that makes it.
        """
        return self.clock.now

    def gather(self, values: Tensor) -> Tensor:
        """Collect the values of the whole global batch, for ``transform_batch``.

        Every process must make the same calls in the same order.

        Args:
            values: the values of this process's samples, (B, ...).

        Returns:
            The values of all samples, (N, ...), detached.
        """
        values = values.detach()
        if self.gatherer is None:
            return values
        return self.gatherer(values, self.random.global_size or len(values))

    def place_net(self, net: Network) -> None:
        """Set the network; the engine does so once it is made."""
        object.__setattr__(self, "net", net)

    def place_renewer(self, renewer: Callable[[nn.Module], None]) -> None:
        """Set what ``restatistics`` calls; the engine does so once the network is made."""
        object.__setattr__(self, "renewer", renewer)

    def place_adder(self, adder: Callable[[str, nn.Module | str, bool], Network]) -> None:
        """Set what ``auxiliary`` calls; the engine does so once the network is made."""
        object.__setattr__(self, "adder", adder)

    def auxiliary(self, name: str, module: nn.Module | str, *, train: bool) -> Network:
        """Use another network beside the one that is judged: a teacher, or a copy.

        Call it in a hook. A network that is trained is in train mode, its parameters are in the
        run's optimizer, with the same rate and weight decay, and a checkpoint keeps it; during the
        attack it is in eval mode. The averaging of ``--ema``, validation and evaluation never see
        it.

        Args:
            name: of the network, once in a run.
            module: a module from images (B, C, H, W) in [0, 1], or the name of a backbone, which
                is built as ``--backbone`` builds it, without pretrained weights.
            train: is it trained? If not, it is in eval mode with frozen parameters; the plan
                records the digest of its weights, and a run is resumed only with the same ones.

        Returns:
            The network: call it for logits, as ``run.net``.

        Raises:
            PluginError: the name is taken, or the run has started.
            UsageError: the run is sharded.
        """
        if self.adder is None:
            raise PluginError(
                "run.auxiliary is not there yet in defense_network",
                fix="call it in the hook of the loss, the attacker or the trainer",
            )
        return self.adder(name, module, train)

    def restatistics(self, module: nn.Module) -> None:
        """Measure a module's running statistics afresh over the training images.

        They become the means of the statistics of the current epoch's batches, weighted by their
        sizes. The images are clean and augmented, the module is in training mode meanwhile. Several
        processes share the batches and get the same result; all of them must call this, in
        ``epoch_end``.

        Args:
            module: a network of the structure of ``run.net.module``; its modes are restored.

        Raises:
            UsageError: the run has no images, as in a dry run.
        """
        if self.renewer is None:
            raise UsageError("run.restatistics needs training images, and this run has none")
        self.renewer(module)

    @property
    def ramp(self) -> float:
        """The share of its full length that an attack step has now, in (0, 1].

        It grows with ``random.step`` over the share ``--attack.ramp`` of the training, else it
        is 1.
        """
        growing = self.attack.ramp * self.epochs * self.steps_per_epoch  # steps
        return min(1.0, float((self.random.step + 1) / (growing + 1)))

    @property
    def step_size(self) -> float:
        """The length of an attack step now, in pixel units."""
        length: float = self.attack.step(self.threat)
        return length * self.ramp

    def config(self, config_class: type[Config]) -> Config:
        """Return the plugin's options in this run.

        Args:
            config_class: the class that the plugin's ``defense_config`` returns.

        Raises:
            UsageError: no plugin of the run has options of this class.
        """
        found = self.options.get(config_class)
        if not isinstance(found, config_class):
            raise UsageError(
                f"no options of type {config_class.__name__} in this run",
                fix="pass the class that the plugin's defense_config hook returns",
            )
        return found
