"""The groups of core options: attack, optimizer, mixing and extra images, each a frozen model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from abatis.api.options import Options, Ratio
from abatis.api.threat import Threat, parse_ratio
from abatis.config.option_facts import STEP
from abatis.config.option_values import check_layer_rate
from abatis.errors import UsageError

Decay = Annotated[float, Field(ge=0, lt=1)]


class AttackConfig(Options):
    """The attack of the training step."""

    steps: int = Field(
        10,
        ge=0,
        le=10_000,
        description="gradient steps of the training attack",
        json_schema_extra=STEP,
    )
    step_size: Ratio | None = Field(
        None,
        description="step size of the attack, like 2/255; eps / 4 if not given",
        json_schema_extra=STEP,
    )
    start: Literal["uniform", "normal", "none"] = Field(
        "uniform",
        description="starting point: uniform in the ball, the image plus 0.001 times standard"
        " normal noise (normal), or the image itself (none)",
        json_schema_extra=STEP,
    )
    ramp: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="fraction of the training in which the step size grows from 0",
        json_schema_extra=STEP,
    )
    bn: Literal["eval", "train"] = Field(
        "eval", description="batch-norm mode during the attack", json_schema_extra=STEP
    )
    precision: Literal["float32", "bf16"] | None = Field(
        None,
        description="precision of the attack's forward passes, its images stay float32;"
        " --precision if not given",
        json_schema_extra=STEP,
    )

    def check_step(self, threat: Threat) -> None:
        """Raise UsageError where the step size is beyond the pixel range: 2 instead of 2/255.

        An Linf step of more than 1 leads out of [0, 1] from everywhere. An L2 step has no such
        limit for all image sizes: it is refused beyond 1 if it is longer than the ball is wide, so
        that it leads out of the ball from everywhere.
        """
        step, limit = self.step(threat), 1.0 if threat.norm == "Linf" else max(1.0, 2 * threat.eps)
        if step > limit:
            beyond = "[0, 1], the range of the pixels" if threat.norm == "Linf" else f"{threat}"
            raise UsageError(
                f"--attack.step-size {self.step_size}: a step of {step:g} leads out of {beyond}",
                fix=f"pixels are in [0, 1]: did you mean {self.step_size}/255?",
            )

    def step(self, threat: Threat) -> float:
        """Step size in pixel units."""
        return threat.eps / 4 if self.step_size is None else parse_ratio(self.step_size)


class OptimConfig(Options):
    """The optimizer and its learning-rate schedule."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimizer", json_schema_extra=STEP)
    lr: float = Field(0.1, gt=0, le=1e3, description="peak learning rate", json_schema_extra=STEP)
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD", json_schema_extra=STEP)
    nesterov: bool = Field(
        False, description="Nesterov's form of the momentum of SGD", json_schema_extra=STEP
    )
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999),
        description="decay rates of AdamW's two moving averages",
        json_schema_extra=STEP,
    )
    weight_decay: float = Field(
        5e-4, ge=0, le=1, description="weight decay", json_schema_extra=STEP
    )
    decay_all: bool = Field(
        True,
        description="apply weight decay to norms, biases and position embeddings as well,"
        " as is usual for small networks",
        json_schema_extra=STEP,
    )
    decay_norms: bool = Field(
        True,
        description="apply weight decay to the parameters of norms too; without it, to all others,"
        " biases among them",
        json_schema_extra=STEP,
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="layer-wise learning-rate decay: factor from each layer to the one below;"
        " 1 is off",
        json_schema_extra=STEP,
    )
    rates: tuple[Annotated[str, AfterValidator(check_layer_rate)], ...] = Field(
        (),
        description="learning rates of single layers, as factors of that of all others, like"
        " stem=0.1,layer1=0.1,head=10; the last that names a layer counts",
        json_schema_extra=STEP,
    )
    schedule: Literal["piecewise", "cosine", "one-cycle", "one-cycle-cosine", "constant"] = Field(
        "piecewise",
        description="learning-rate schedule: drops at milestones (piecewise), cosine,"
        " linear up for 30 % of the training and down to 0 (one-cycle), up and down by cosines"
        " (one-cycle-cosine), or constant",
        json_schema_extra=STEP,
    )
    warmup: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="fraction of the training in which the learning rate rises to its peak",
        json_schema_extra=STEP,
    )
    final: float = Field(
        0.0,
        ge=0,
        le=1,
        description="final learning rate of cosine and one-cycle-cosine, as a fraction of the peak",
        json_schema_extra=STEP,
    )
    first: float = Field(
        0.04,
        ge=0,
        le=1,
        description="first learning rate of one-cycle-cosine, as a fraction of the peak",
        json_schema_extra=STEP,
    )
    rise: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="when one-cycle-cosine has its peak, as a fraction of the training",
        json_schema_extra=STEP,
    )
    momentum_range: tuple[Decay, Decay] | None = Field(
        None,
        description="momentum of SGD at the peak of one-cycle-cosine and at its ends, like"
        " 0.85,0.95; constant if not given",
        json_schema_extra=STEP,
    )
    rate_every: Literal["step", "epoch"] = Field(
        "step",
        description="how often the learning rate changes: in every step, or between epochs",
        json_schema_extra=STEP,
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.6, 0.9),
        description="when piecewise drops the learning rate, as fractions of the training",
        json_schema_extra=STEP,
    )
    gamma: float = Field(
        0.1, gt=0, le=1, description="factor of each drop of piecewise", json_schema_extra=STEP
    )
    rate_at: Literal["start", "end"] = Field(
        "start",
        description="at which end of a step the schedule is read; at the end, drops come one step"
        " earlier, as in some released code",
        json_schema_extra=STEP,
    )

    @model_validator(mode="after")
    def _check_nesterov(self) -> OptimConfig:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise UsageError(
                "--optim.nesterov is a form of the momentum of SGD, and this run has none",
                fix="use --optim.name sgd and a momentum above 0, or leave it out",
            )
        return self

    @model_validator(mode="after")
    def _check_cycle(self) -> OptimConfig:
        if self.momentum_range is None:
            return self
        if self.name != "sgd" or self.schedule != "one-cycle-cosine":
            raise UsageError(
                "--optim.momentum-range is the momentum of SGD along one-cycle-cosine",
                fix="add --optim.name sgd --optim.schedule one-cycle-cosine, or leave it out",
            )
        return self

    @model_validator(mode="after")
    def _check_layer_decay(self) -> OptimConfig:
        if self.layer_decay < 1 and self.decay_all:
            raise UsageError(
                "--optim.layer-decay does not decay norms and biases",
                fix="add --no-optim.decay-all",
            )
        return self


class StatisticsConfig(Options):
    """Which training forwards of a step move the running statistics of batch norms, in order.

    Empty lists stand for the forwards that the losses ask for, once each. ``clean`` and ``adv`` are
    forwards on the clean and on the adversarial images.
    """

    attack: tuple[Literal["steps", "adv"], ...] = Field(
        (),
        description="in the attack: its own steps (steps, needs --attack.bn train), then a forward"
        " of its result (adv)",
        json_schema_extra=STEP,
    )
    loss: tuple[Literal["clean", "adv"], ...] = Field(
        (),
        description="in the losses, like clean,adv,clean: the first of a kind is the losses' own,"
        " a repeated one has no gradient",
        json_schema_extra=STEP,
    )
    after: tuple[Literal["clean", "adv"], ...] = Field(
        (), description="behind the update, with the new weights", json_schema_extra=STEP
    )

    first: Literal["usual", "replace"] = Field(
        "usual",
        description="statistics after the first update: averaged with the initial ones, or those"
        " of its last forward alone (replace)",
        json_schema_extra=STEP,
    )

    @property
    def is_set(self) -> bool:
        """Does anything differ from the forwards that the losses ask for?"""
        return bool(self.attack or self.loss or self.after or self.first == "replace")

    @model_validator(mode="after")
    def _check_order(self) -> StatisticsConfig:
        if "steps" in self.attack[1:]:
            raise UsageError(
                f"--statistics.attack {','.join(self.attack)}: the steps come first, and once",
                fix="--statistics.attack steps,adv",
            )
        return self

    def check_attack(self, attack: AttackConfig) -> None:
        """Raise UsageError where the attack's steps are to move what they do not read."""
        if "steps" in self.attack and attack.bn != "train":
            raise UsageError(
                "--statistics.attack steps: an attack in eval mode moves no running statistics",
                fix="add --attack.bn train, or leave steps out",
            )


class MixConfig(Options):
    """Mixing of images and labels, by timm: a batch then has soft labels as well as hard ones."""

    mixup: float = Field(
        0.0, ge=0, le=100, description="alpha of mixup; 0 is off", json_schema_extra=STEP
    )
    cutmix: float = Field(
        0.0, ge=0, le=100, description="alpha of CutMix; 0 is off", json_schema_extra=STEP
    )
    probability: float = Field(
        1.0, ge=0, le=1, description="fraction of batches that are mixed", json_schema_extra=STEP
    )
    switch: float = Field(
        0.5,
        ge=0,
        le=1,
        description="probability of CutMix instead of mixup, if both are on",
        json_schema_extra=STEP,
    )
    smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="label smoothing: share of a label that is spread over all classes",
        json_schema_extra=STEP,
    )

    @property
    def is_on(self) -> bool:
        """Does it make soft labels?"""
        return max(self.mixup, self.cutmix, self.smoothing) > 0


class ExtraConfig(Options):
    """Additional training images, such as generated ones."""

    file: Path | None = Field(
        None,
        description="uncompressed .npz file with 'image' (N, H, W, C) uint8 and 'label' (N,)",
        json_schema_extra=STEP,
    )
    fraction: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="fraction of each batch taken from these images",
        json_schema_extra=STEP,
    )
    copies: Literal["refuse", "drop"] = Field(
        "refuse",
        description="what to do about exact copies of test or held-out images:"
        " refuse the file, or drop the copies",
        json_schema_extra=STEP,
    )


class SourceConfig(Options):
    """How ``--data`` is read where a source leaves a choice."""

    image: str | None = Field(
        None,
        description="column of the images, for hf: and csv:; found by type or name if not given",
        json_schema_extra=STEP,
    )
    label: str | None = Field(
        None,
        description="column of the labels, for hf: and csv:; found by type or name if not given",
        json_schema_extra=STEP,
    )
    config: str | None = Field(
        None,
        description="configuration of a data set on the Hugging Face hub, like cropped_digits",
        json_schema_extra=STEP,
    )
    revision: str | None = Field(
        None,
        description="revision of a data set on the Hugging Face hub: a commit, tag or branch",
        json_schema_extra=STEP,
    )
    stream: int | None = Field(
        None,
        ge=1,
        description="read only N training images and N test images of a large hf: set, from its"
        " shuffled stream, instead of the whole set",
        json_schema_extra=STEP,
    )
    test_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the images that become the test set, where the data come without"
        " one; the same images in every run",
        json_schema_extra=STEP,
    )
