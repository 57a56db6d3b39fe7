"""The configuration of a run: frozen pydantic models, every number with a bound and a sentence.

The same words serve the command line (``--optim.weight-decay``), TOML (``[optim] weight_decay``) and Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from abatis.api.options import Options, PluginConfig, Ratio, underscored
from abatis.api.threat import Threat, ratio
from abatis.config import discovery
from abatis.errors import UsageError, did_you_mean

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
ROLES = ("attacker", "loss")
NO_PART_OF_A_RUN = {
    "name",
    "resume",
    "restart",
    "allow_mismatch",
    "dry_run",
    "trace",
    "quiet",
    "options",
}
AVERAGING_DECAY = 0.999  # what `--ema` alone means


Ladder = Literal["quick", "standard", "thorough"]
"""The ladders of attacks of an evaluation, from the shortest to the longest."""
LADDERS: tuple[str, ...] = get_args(Ladder)

Share = Annotated[float, Field(ge=0, lt=1)]


def _run_name(name: str) -> str:
    if not RUN_NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{name!r} is no name for a run; use letters, digits, '-', '_' and single dots, at most 80"
        )
    return name


def plugin_names(value: object) -> list[str]:
    """Names of plugins as they may be given: a list, or a text with commas. Raises UsageError."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return list(value)
    raise UsageError(f"plugin: a name or a list of names, not {value!r}")


def _threat(value: object) -> str:
    threat = Threat.parse(str(value))
    if threat.norm == "L1":
        raise UsageError(
            "there is no training attack in L1",
            fix="train with Linf or L2; defense eval judges in L1 too",
        )
    return str(threat)


class AttackConfig(Options):
    """The attack of the training step."""

    steps: int = Field(10, ge=0, le=10_000, description="gradient steps of the training attack")
    step_size: Ratio | None = Field(
        None, description="length of a step, like 2/255; a quarter of eps where not given"
    )
    start: Literal["uniform", "normal", "none"] = Field(
        "uniform",
        description="where it starts: uniform in the ball, 0.001 times standard normal noise, or none: the image",
    )
    ramp: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training in which the length of a step grows from 0",
    )
    bn: Literal["eval", "train"] = Field(
        "eval", description="batch-norm statistics during the attack"
    )
    precision: Literal["float32", "bf16"] | None = Field(
        None,
        description="arithmetic of the attack's forward passes, its images stay float32; that of the run if not given",
    )

    def step(self, threat: Threat) -> float:
        """Length of a step in pixel units."""
        return threat.eps / 4 if self.step_size is None else ratio(self.step_size)


class OptimConfig(Options):
    """The optimizer and its schedule."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimizer")
    lr: float = Field(0.1, gt=0, le=1e3, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="decay of adamw's two averages")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="weight decay")
    decay_all: bool = Field(
        True, description="decay norms, biases and position embeddings, too, as small nets do"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the rate from a layer to the one below it; 1 is off"
    )
    schedule: Literal["piecewise", "cosine", "one-cycle", "constant"] = Field(
        "piecewise",
        description="piecewise drops, cosine, or linear up to the peak at 30 % and down to 0",
    )
    warmup: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training in which the rate first rises to the peak",
    )
    final: float = Field(0.0, ge=0, le=1, description="share of the peak at which cosine ends")
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.6, 0.9), description="where piecewise drops, as shares of the training"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each drop")

    @model_validator(mode="after")
    def _layers(self) -> OptimConfig:
        if self.layer_decay < 1 and self.decay_all:
            raise UsageError(
                "--optim.layer-decay never decays norms and biases", fix="add --no-optim.decay-all"
            )
        return self


class MixConfig(Options):
    """Mixtures of images and labels, made by timm. A batch then has soft labels beside the hard ones."""

    mixup: float = Field(0.0, ge=0, le=100, description="alpha of mixup; 0 is off")
    cutmix: float = Field(0.0, ge=0, le=100, description="alpha of cutmix; 0 is off")
    probability: float = Field(1.0, ge=0, le=1, description="share of the batches that are mixed")
    switch: float = Field(0.5, ge=0, le=1, description="share of cutmix, where both are on")
    smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of a label that goes to all classes alike"
    )

    @property
    def is_on(self) -> bool:
        """Does it make soft labels?"""
        return max(self.mixup, self.cutmix, self.smoothing) > 0


class ExtraConfig(Options):
    """Additional training images, generated ones for example."""

    file: Path | None = Field(
        None, description="uncompressed .npz with 'image' (N, H, W, C) uint8 and 'label' (N,)"
    )
    fraction: float = Field(0.7, gt=0, lt=1, description="their share of every batch")
    copies: Literal["refuse", "drop"] = Field(
        "refuse",
        description="exact copies of test or held-out images among them: refuse the file, or leave them out",
    )


def _not_selected(name: str) -> UsageError:
    return UsageError(
        f"options for plugin '{name}', which is not selected", fix=f"add --plugin {name}"
    )


class RunConfig(Options):
    """One experiment. ``RunConfig(plugin=["x"], x={"weight": 1})`` and ``options={"x": {...}}`` say the same."""

    plugin: tuple[str, ...] = Field(
        (), description="plugin to use, by name or ./FILE.py; repeat the flag for several"
    )
    backbone: str = Field(
        "resnet18", description="our CIFAR nets, any timm name, or FILE.py:FACTORY"
    )
    pretrained: bool = Field(
        False, description="start from timm's pretrained weights with a new head"
    )
    init: Path | None = Field(
        None, description="weights (.safetensors) or run folder to start from: fine-tuning"
    )
    data: str = Field(
        "cifar10", description="digits, cifar10, cifar100, svhn, mnist, npz:PATH or folder:PATH"
    )
    data_dir: Path = Field(Path("data"), description="where named data sets lie")
    limit: int | None = Field(
        None,
        ge=1,
        description="use the first N training images, and the same share of the test images",
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=4096,
        description="pixels a side for folder data; from data or net if not given",
    )
    augment: Literal["auto", "none", "crop", "crop-flip"] = Field(
        "auto", description="training augmentation"
    )
    auto_augment: str = Field(
        "", description="policy for folder data in timm's words, like rand-m9-mstd0.5-inc1"
    )
    erasing: float = Field(
        0.0, ge=0, le=1, description="share of a folder's images of which a rectangle becomes noise"
    )
    mix: MixConfig = Field(MixConfig(), description="mixup, cutmix and label smoothing")
    extra: ExtraConfig = Field(ExtraConfig(), description="additional training images")
    skip_broken: bool = Field(
        False, description="leave out files of a folder that are no images or cannot be read"
    )
    threat: Annotated[str, BeforeValidator(_threat)] = Field(
        "Linf:8/255", description="norm and radius: Linf:8/255, L2:0.5"
    )
    attack: AttackConfig = Field(AttackConfig(), description="training attack")
    epochs: int = Field(100, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=1, le=1_000_000, description="images an update is made from")
    accumulate: int = Field(
        1, ge=1, le=10_000, description="micro-batches a batch is cut into, to save memory"
    )
    workers: int = Field(0, ge=0, le=256, description="loader processes for folder data")
    skip_nonfinite: int = Field(
        0,
        ge=0,
        le=1000,
        description="steps in a row that may be left out where loss or gradient is not finite",
    )
    clip_grad: float = Field(
        0.0, ge=0, le=1e6, description="largest norm of the gradient; 0 does not clip"
    )
    optim: OptimConfig = Field(OptimConfig(), description="optimizer")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=f"decay of averaged weights; 0 is off, --ema alone {AVERAGING_DECAY}",
    )
    early_stop: int = Field(
        0,
        ge=0,
        description="epochs without a better robust validation accuracy before stopping; 0 never",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random draw")
    nproc: int = Field(
        1, ge=1, le=1024, description="processes on this machine that share each batch, one a GPU"
    )
    max_restarts: int = Field(
        0,
        ge=0,
        le=1000,
        description="how often to start the processes of --nproc again, from the newest checkpoint",
    )
    shard: Literal["none", "root", "blocks"] = Field(
        "none",
        description="divide weights, gradients and moments among the processes: gathered as a whole, or block by block",
    )
    sync_bn: bool = Field(False, description="batch norm over the images of all processes; on GPUs")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="arithmetic of the training forward passes"
    )
    fold: bool = Field(
        True,
        description="fold batch norms with running statistics into convolutions: faster, equal up to rounding",
    )
    grad_checkpointing: bool = Field(
        False, description="compute activations again in backward passes: less memory, more time"
    )
    compile: Literal["none", "attack", "step", "both"] = Field(
        "none",
        description="torch.compile the forward passes of the attack, of the losses, or both; on a GPU with CUDA graphs",
    )
    track: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        (),
        description="hand the metrics to tensorboard, mlflow or wandb too, in local files; repeat the flag for several",
    )
    eval: Literal["none", "quick", "standard", "thorough"] = Field(
        "standard",
        description="none; quick: clean, PGD-20; standard: + margin-PGD-20, AutoAttack; thorough: + PGD-100, plus",
    )
    use: dict[str, str] = Field(
        {},
        description="who provides a role: loss=NAME, attacker=NAME (or pgd, none, cross-entropy)",
    )
    out: Path = Field(Path("runs"), description="folder that holds the run folders")
    name: Annotated[str, AfterValidator(_run_name)] | None = Field(
        None, description="name of the run folder; made up if not given"
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints; each epoch if not given"
    )
    resume: bool = Field(False, description="go on from the newest valid checkpoint")
    restart: bool = Field(
        False, description="as --resume, but from step 0 where no checkpoint is valid"
    )
    allow_mismatch: tuple[str, ...] = Field(
        (),
        description="what may differ from the checkpoint, like batch_size, torch or a plugin; the run is then not bit-exact",
    )
    dry_run: bool = Field(False, description="print the plan and stop")
    trace: bool = Field(
        False,
        description="print every hook call at start-up and who answered, then what a run calls, in order",
    )
    quiet: bool = Field(False, description="print nothing but errors")
    options: dict[str, SerializeAsAny[PluginConfig]] = Field(
        {}, description="options of the plugins, by name"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, raw: Any, validate: ModelWrapValidatorHandler[RunConfig]) -> RunConfig:
        """Whatever is wrong is a UsageError that names the option."""
        try:
            return validate(raw)
        except ValidationError as error:
            raise UsageError(discovery.explain(error, cls)) from error

    @model_validator(mode="before")
    @classmethod
    def _plugin_options(cls, raw: Any) -> Any:
        """Validate the tables of the selected plugins against their own classes."""
        raw = underscored(raw)
        if not isinstance(raw, Mapping):
            return raw
        asked = discovery.canonical(plugin_names(raw.get("plugin", ())))
        names = [discovery.name_of(plugin) for plugin in asked]
        given = raw.get("options", {})
        if not isinstance(given, Mapping):
            raise UsageError(f"options: a table for each plugin, not {given!r}")
        tables = {discovery.normal(key): value for key, value in given.items()}
        core = {key: value for key, value in raw.items() if key in cls.model_fields}
        for key in raw.keys() - core.keys():
            if discovery.normal(key) not in names:
                if discovery.normal(key) in discovery.installed():
                    raise _not_selected(discovery.normal(key))
                raise UsageError(
                    f"unknown option '{key}': {did_you_mean(key, [*cls.model_fields, *discovery.installed()])}"
                )
            tables[discovery.normal(key)] = raw[key]
        for key in tables.keys() - set(names):
            raise _not_selected(key)
        loaded = discovery.load_all(asked, fresh=True, reserved=reserved_names())
        options = {
            plugin.name: discovery.options_of(plugin, tables.get(plugin.name, {}))
            for plugin in loaded
        }
        ema = (
            {True: AVERAGING_DECAY, False: 0.0}.get(core["ema"], core["ema"])
            if isinstance(core.get("ema"), bool)
            else None
        )
        return {
            **core,
            "plugin": asked,
            "options": options,
            **({} if ema is None else {"ema": ema}),
        }

    @model_validator(mode="after")
    def _roles(self) -> RunConfig:
        for role in self.use:
            if role not in ROLES:
                raise UsageError(f"--use {role}=...: no such role, {did_you_mean(role, ROLES)}")
        return self

    @property
    def resumes(self) -> bool:
        """May the run folder be there already?"""
        return self.resume or self.restart

    @property
    def threat_model(self) -> Threat:
        """The threat, parsed."""
        return Threat.parse(self.threat)

    def to_toml(self) -> dict[str, Any]:
        """What ``run.toml`` holds: everything that repeats the run, plugin options in tables of their own."""
        dumped = self.model_dump(mode="json", exclude=NO_PART_OF_A_RUN, exclude_none=True)
        return {
            **dumped,
            **{
                name: options.model_dump(mode="json", exclude_none=True)
                for name, options in self.options.items()
            },
        }


def reserved_names() -> frozenset[str]:
    """Names that no plugin may have: those of the core options, spelled with hyphens."""
    return frozenset(
        {discovery.normal(field) for field in RunConfig.model_fields} | {"config", "recipe", "help"}
    )
