"""The configuration of a run: frozen pydantic models, every number with a bound and a sentence.

The same words serve the command line (``--optim.weight-decay``), TOML (``[optim] weight_decay``) and Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from abatis.errors import UsageError, did_you_mean
from abatis.types import Threat, ratio

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
ROLES = ("attacker", "loss")
NO_PART_OF_A_RUN = {"name", "resume", "restart", "allow_mismatch", "dry_run", "quiet", "options"}
AVERAGING_DECAY = 0.999  # what `--ema` alone means
_BOUNDS = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))


def _ratio_text(value: object) -> str:
    text = str(value).replace(" ", "")
    if ratio(text) <= 0:
        raise ValueError(f"{text} is not above 0")
    return text


Ratio = Annotated[str, BeforeValidator(_ratio_text)]
"""A positive number kept as written: "2/255" or 0.007."""


def _run_name(name: str) -> str:
    if not RUN_NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} is no name for a run; use letters, digits, '-', '_' and single dots, at most 80")
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
        raise UsageError("there is no training attack in L1", fix="train with Linf or L2; defense eval judges in L1 too")
    return str(threat)


def underscored(raw: Any) -> Any:
    """A table with underscores for the hyphens of its keys."""
    return {str(key).replace("-", "_"): value for key, value in raw.items()} if isinstance(raw, Mapping) else raw


def _check_text(raw: Any) -> None:
    """Raise UsageError where a text, anywhere in a table, can be neither a path nor written down."""
    if isinstance(raw, Mapping):
        raw = [*raw.keys(), *raw.values()]
    if isinstance(raw, list | tuple):
        for part in raw:
            _check_text(part)
    elif isinstance(raw, str | Path) and ("\0" in str(raw) or str(raw) != str(raw).encode(errors="replace").decode()):
        raise UsageError(f"{str(raw)!r} holds a NUL or half a character", fix="write it in whole characters")


class Options(BaseModel):
    """A frozen set of options that refuses unknown names and accepts hyphens for underscores."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Append each field's bounds to its sentence, so that ``--help`` shows them."""
        for field in cls.model_fields.values():
            bounds = [
                f"{sign} {getattr(mark, attribute):g}"
                for mark in field.metadata
                for kind, attribute, sign in _BOUNDS
                if isinstance(mark, kind)
            ]
            note = f" [{', '.join(bounds)}]"
            if bounds and not (field.description or "").endswith(note):
                field.description = f"{field.description or ''}{note}".strip()

    @model_validator(mode="before")
    @classmethod
    def _underscores(cls, raw: Any) -> Any:
        _check_text(raw)
        return underscored(raw)


class PluginConfig(Options):
    """Base of every plugin's options. What a plugin needs of the engine is declared here, as a fact about its options."""

    neutral: ClassVar[Mapping[str, Any]] = {}
    """Values at which the plugin does nothing, like ``{"weight": 0}``: with all of them it adds nothing to the run."""

    @property
    def needs_clean(self) -> bool:
        """Does it read ``ctx.logits_clean``? Then the clean forward comes first, as in published code."""
        return False

    @property
    def needs_double_backward(self) -> bool:
        """Does it differentiate an input gradient? Then the step is not compiled."""
        return False

    @property
    def idle_epochs(self) -> int:
        """First epochs in which the plugin does nothing yet; a run that ends within them is warned about."""
        return 0

    @property
    def is_neutral(self) -> bool:
        """Do these options switch the plugin off?"""
        return bool(self.neutral) and all(getattr(self, name) == value for name, value in self.neutral.items())


class AttackConfig(Options):
    """The attack of the training step."""

    steps: int = Field(10, ge=0, le=10_000, description="gradient steps of the training attack")
    step_size: Ratio | None = Field(None, description="length of a step, like 2/255; a quarter of eps where not given")
    start: Literal["uniform", "normal"] = Field(
        "uniform", description="where it starts: uniform in the ball, or 0.001 times standard normal noise"
    )
    bn: Literal["eval", "train"] = Field("eval", description="batch-norm statistics during the attack")
    precision: Literal["float32", "bf16"] | None = Field(
        None, description="arithmetic of the attack's forward passes, its images stay float32; that of the run if not given"
    )

    def step(self, threat: Threat) -> float:
        """Length of a step in pixel units."""
        return threat.eps / 4 if self.step_size is None else ratio(self.step_size)


class OptimConfig(Options):
    """The optimizer and its schedule."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimizer")
    lr: float = Field(0.1, gt=0, le=1e3, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="weight decay of every parameter")
    schedule: Literal["piecewise", "cosine", "one-cycle", "constant"] = Field(
        "piecewise", description="piecewise drops, cosine to 0, or linear up to the peak at 30 % and down to 0"
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.6, 0.9), description="where piecewise drops, as shares of the training"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each drop")


class RunConfig(Options):
    """One experiment. ``RunConfig(plugin=["x"], x={"weight": 1})`` and ``options={"x": {...}}`` say the same."""

    plugin: tuple[str, ...] = Field((), description="plugin to use, by name or ./FILE.py; repeat the flag for several")
    backbone: str = Field("resnet18", description="our CIFAR nets, any timm name, or FILE.py:FACTORY")
    pretrained: bool = Field(False, description="start from timm's pretrained weights with a new head")
    init: Path | None = Field(None, description="weights (.safetensors) or run folder to start from: fine-tuning")
    data: str = Field("cifar10", description="digits, cifar10, cifar100, svhn, mnist, npz:PATH or folder:PATH")
    data_dir: Path = Field(Path("data"), description="where named data sets lie")
    limit: int | None = Field(None, ge=1, description="use the first N training images, and the same share of the test images")
    image_size: int | None = Field(None, ge=8, le=4096, description="pixels a side for folder data; from the data if not given")
    augment: Literal["auto", "none", "crop", "crop-flip"] = Field("auto", description="training augmentation")
    skip_broken: bool = Field(False, description="leave out files of a folder that are no images or cannot be read")
    threat: Annotated[str, BeforeValidator(_threat)] = Field("Linf:8/255", description="norm and radius: Linf:8/255, L2:0.5")
    attack: AttackConfig = Field(AttackConfig(), description="training attack")
    epochs: int = Field(100, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=1, le=1_000_000, description="images an update is made from")
    accumulate: int = Field(1, ge=1, le=10_000, description="micro-batches a batch is cut into, to save memory")
    workers: int = Field(0, ge=0, le=256, description="loader processes for folder data")
    clip_grad: float = Field(0.0, ge=0, le=1e6, description="largest norm of the gradient; 0 does not clip")
    optim: OptimConfig = Field(OptimConfig(), description="optimizer")
    ema: float = Field(0.0, ge=0, lt=1, description=f"decay of averaged weights; 0 is off, --ema alone {AVERAGING_DECAY}")
    early_stop: int = Field(0, ge=0, description="epochs without a better robust validation accuracy before stopping; 0 never")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random draw")
    nproc: int = Field(1, ge=1, le=1024, description="processes on this machine that share each batch, one a GPU")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["float32", "bf16"] = Field("float32", description="arithmetic of the training forward passes")
    fold: bool = Field(
        True, description="fold batch norms with running statistics into convolutions: faster, equal up to rounding"
    )
    compile: Literal["none", "attack", "step", "both"] = Field(
        "none", description="torch.compile the forward passes of the attack, of the losses, or both; on a GPU with CUDA graphs"
    )
    eval: Literal["none", "quick", "standard", "thorough"] = Field(
        "standard", description="none; quick: clean, PGD-20; standard: + margin-PGD-20, AutoAttack; thorough: + PGD-100, plus"
    )
    use: dict[str, str] = Field({}, description="who provides a role: loss=NAME, attacker=NAME (or pgd, none, cross-entropy)")
    out: Path = Field(Path("runs"), description="folder that holds the run folders")
    name: Annotated[str, AfterValidator(_run_name)] | None = Field(
        None, description="name of the run folder; made up if not given"
    )
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints; each epoch if not given")
    resume: bool = Field(False, description="go on from the newest valid checkpoint")
    restart: bool = Field(False, description="as --resume, but from step 0 where no checkpoint is valid")
    allow_mismatch: tuple[str, ...] = Field(
        (), description="what may differ from the checkpoint, like batch_size, torch or a plugin; the run is then not bit-exact"
    )
    dry_run: bool = Field(False, description="print the plan and stop")
    quiet: bool = Field(False, description="print nothing but errors")
    options: dict[str, SerializeAsAny[PluginConfig]] = Field({}, description="options of the plugins, by name")

    @model_validator(mode="before")
    @classmethod
    def _plugin_options(cls, raw: Any) -> Any:
        """Validate the tables of the selected plugins against their own classes."""
        raw = underscored(raw)
        if not isinstance(raw, Mapping):
            return raw
        from abatis import plugins  # plugins.py needs PluginConfig

        asked = plugins.canonical(plugin_names(raw.get("plugin", ())))
        names = [plugins.name_of(plugin) for plugin in asked]
        given = raw.get("options", {})
        if not isinstance(given, Mapping):
            raise UsageError(f"options: a table for each plugin, not {given!r}")
        tables = {plugins.normal(key): value for key, value in given.items()}
        core = {key: value for key, value in raw.items() if key in cls.model_fields}
        for key in raw.keys() - core.keys():
            if plugins.normal(key) not in names:
                raise UsageError(f"unknown option '{key}': {did_you_mean(key, [*cls.model_fields, *names])}")
            tables[plugins.normal(key)] = raw[key]
        for key in tables.keys() - set(names):
            raise UsageError(f"options for plugin '{key}', which is not selected", fix=f"add --plugin {key}")
        loaded = plugins.load_all(asked, fresh=True)
        options = {plugin.name: plugins.options_of(plugin, tables.get(plugin.name, {})) for plugin in loaded}
        ema = {True: AVERAGING_DECAY, False: 0.0}.get(core["ema"], core["ema"]) if isinstance(core.get("ema"), bool) else None
        return {**core, "plugin": asked, "options": options, **({} if ema is None else {"ema": ema})}

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
            **{name: options.model_dump(mode="json", exclude_none=True) for name, options in self.options.items()},
        }
