"""The options of a run, one field each, every number with a bound and a sentence.

The same names serve the command line (``--optim.weight-decay``), TOML (``[optim] weight_decay``)
and Python. Each option declares what it means for a run: see :mod:`abatis.config.option_facts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny

from abatis.api.options import Options, PluginConfig
from abatis.config.built_in import ATTACKS, DATA_SOURCES, JUDGED, LOSSES, TRACKERS
from abatis.config.ladders import LADDERS_OF_A_RUN
from abatis.config.option_facts import (
    BESIDE_STEP,
    DISPLAY,
    MACHINE,
    MEASURE,
    ROUNDED,
    STEP,
    THIS_START,
    facts,
)
from abatis.config.option_groups import (
    AttackConfig,
    ExtraConfig,
    MixConfig,
    OptimConfig,
    SourceConfig,
    StatisticsConfig,
)
from abatis.config.option_values import (
    check_class_weights,
    check_normalize,
    check_run_name,
    check_tracker,
    parse_threat,
)

AVERAGING_DECAY = 0.999  # what `--ema` alone means


class RunOptions(Options):
    """All options of a run, as fields; :class:`abatis.RunConfig` checks how they fit together."""

    plugin: tuple[str, ...] = Field(
        (),
        description="plugin to use, by name or as ./FILE.py; repeat the flag for several",
        json_schema_extra=facts(in_comparison="varied"),
    )
    backbone: str = Field(
        "resnet18",
        description="built-in network, timm model, torchvision:NAME, hf-hub:, local-dir:,"
        " rb:NAME (RobustBench), or FILE.py:FACTORY",
        json_schema_extra=STEP,
    )
    pretrained: bool = Field(
        False,
        description="start from the network's pretrained weights, with a new head",
        json_schema_extra=STEP,
    )
    backbone_init: Literal["he", "torch"] = Field(
        "he",
        description="initial weights of the convolutions of our own networks: normal by fan-out"
        " (he), or torch's default (torch)",
        json_schema_extra=STEP,
    )
    backbone_activation: Literal["relu", "silu"] | None = Field(
        None,
        description="activation of a wide ResNet or PreActResNet; the network's own if not given",
        json_schema_extra=STEP,
    )
    backbone_padding: Literal["symmetric", "same"] | None = Field(
        None,
        description="padding of the strided convolutions of a wide ResNet or PreActResNet: one"
        " pixel on every side (symmetric), or right and below only (same)",
        json_schema_extra=STEP,
    )
    zoo_dir: Path = Field(
        Path("models"), description="folder of the weights of rb: nets", json_schema_extra=MACHINE
    )
    init: Path | None = Field(
        None,
        description="fine-tune from a weights file, run folder, repository or rb:NAME",
        json_schema_extra=STEP,
    )
    continue_from: Path | None = Field(
        None,
        description="go on from this run's last checkpoint: weights, buffers, moments, epoch",
        json_schema_extra=STEP,
    )
    normalize: Annotated[str, BeforeValidator(check_normalize)] = Field(
        "data",
        description="mean and standard deviation of the layer before the network: those of the data"
        " (data), imagenet, cifar10, MEAN STD with commas between channels, or no layer (none)",
        json_schema_extra=STEP,
    )
    weights_key: str | None = Field(
        None, description="set of weights to take from --init, such as ema", json_schema_extra=STEP
    )
    allow_pickle: bool = Field(
        False, description="load the tensors of pickles: .pt, .pth, .bin", json_schema_extra=MACHINE
    )
    data: str = Field(
        "cifar10", description=f"data set: {', '.join(DATA_SOURCES)}", json_schema_extra=MEASURE
    )
    data_dir: Path = Field(
        Path("data"), description="folder that holds the named data sets", json_schema_extra=MACHINE
    )
    download: bool = Field(
        False, description="download a torchvision: data set", json_schema_extra=MACHINE
    )
    source: SourceConfig = Field(
        SourceConfig(), description="how the data are read", json_schema_extra=MEASURE
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="use only N training images, of all classes, and this share of the test images",
        json_schema_extra=MEASURE,
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=4096,
        description="image side in pixels for image files; that of data or network if not given",
        json_schema_extra=STEP,
    )
    augment: Literal["auto", "none", "crop", "crop-flip"] = Field(
        "auto", description="training augmentation", json_schema_extra=STEP
    )
    crop_padding: Literal["zeros", "reflect"] = Field(
        "zeros",
        description="what random crops see beyond the border: zeros, or the image reflected",
        json_schema_extra=STEP,
    )
    auto_augment: str = Field(
        "",
        description="timm's augmentation policy for image files, like rand-m9-mstd0.5-inc1",
        json_schema_extra=STEP,
    )
    erasing: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that a rectangle of an image file becomes noise (random erasing)",
        json_schema_extra=STEP,
    )
    mix: MixConfig = Field(
        MixConfig(), description="mixup, CutMix and label smoothing", json_schema_extra=STEP
    )
    extra: ExtraConfig = Field(
        ExtraConfig(), description="additional (generated) training images", json_schema_extra=STEP
    )
    validation: float | None = Field(
        None,
        ge=0,
        description="training images held out to choose the best weights: a number, or a share"
        " below 1; 0 trains on all and judges the last weights (default: a tenth, up to 1000)",
        json_schema_extra=MEASURE,
    )
    order: Literal["shuffled", "fixed", "balanced"] = Field(
        "shuffled",
        description="order of the training images: new in every epoch (shuffled; balanced: every"
        " class equally often), or as they are stored (fixed)",
        json_schema_extra=STEP,
    )
    class_weights: Annotated[str, AfterValidator(check_class_weights)] = Field(
        "none",
        description="class weights of the loss: none, balanced, or numbers like 1,2.5,1",
        json_schema_extra=STEP,
    )
    skip_broken: bool = Field(
        False, description="skip image files that cannot be read", json_schema_extra=MEASURE
    )
    follow_links: bool = Field(
        False,
        description="read files that links out of the folder lead to",
        json_schema_extra=MACHINE,
    )
    threat: Annotated[str, BeforeValidator(parse_threat)] = Field(
        "Linf:8/255",
        description="norm and radius of the threat model, like Linf:8/255 or L2:0.5",
        json_schema_extra=MEASURE,
    )
    also_train: tuple[Annotated[str, BeforeValidator(parse_threat)], ...] = Field(
        (),
        description="another threat to train on, like a second --threat; for plugins with several",
        json_schema_extra=MEASURE,
    )
    also_threat: tuple[Annotated[str, BeforeValidator(parse_threat)], ...] = Field(
        (),
        description="another threat to judge beside the trained one; repeat the flag for several",
        json_schema_extra=BESIDE_STEP,
    )
    attack: AttackConfig = Field(
        AttackConfig(), description="training attack", json_schema_extra=STEP
    )
    epochs: int = Field(
        100,
        ge=1,
        le=100_000,
        description="passes over the training set",
        json_schema_extra=facts(on_resume="longer"),
    )
    epoch_updates: int | None = Field(
        None, ge=1, description="updates per epoch; one pass if not given", json_schema_extra=STEP
    )
    batch_size: int = Field(
        128,
        ge=1,
        le=1_000_000,
        description="images per update (global batch)",
        json_schema_extra=STEP,
    )
    accumulate: int = Field(
        1,
        ge=1,
        le=10_000,
        description="micro-batches per update (gradient accumulation), to save memory",
        json_schema_extra=STEP,
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=256,
        description="processes that load folder data; if not given, as the number of cores allows",
        json_schema_extra=MACHINE,
    )
    skip_nonfinite: int = Field(
        0,
        ge=0,
        le=1000,
        description="consecutive steps that may be skipped where loss or gradient is not finite",
        json_schema_extra=STEP,
    )
    clip_grad: float = Field(
        0.0, ge=0, le=1e6, description="maximum gradient norm; 0 is off", json_schema_extra=STEP
    )
    statistics: StatisticsConfig = Field(
        StatisticsConfig(), description="what moves running statistics", json_schema_extra=STEP
    )
    optim: OptimConfig = Field(
        OptimConfig(), description="optimizer and learning-rate schedule", json_schema_extra=STEP
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=f"decay of the weight average (EMA); 0 is off, --ema alone {AVERAGING_DECAY}",
        json_schema_extra=STEP,
    )
    ema_warmup: float = Field(
        0.0, ge=0, lt=1, description="share of the run without averages", json_schema_extra=STEP
    )
    early_stop: int = Field(
        0,
        ge=0,
        description="stop after N epochs without a better robust validation accuracy; 0 is off",
        json_schema_extra=STEP,
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="seed of all random draws",
        json_schema_extra=facts(in_comparison="varied", measures=True),
    )
    nproc: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes on this machine that share each batch, one per GPU",
        json_schema_extra=BESIDE_STEP,
    )
    max_restarts: int = Field(
        0,
        ge=0,
        le=1000,
        description="restarts of --nproc's processes after a failure, from the last checkpoint",
        json_schema_extra=BESIDE_STEP,
    )
    shard: Literal["none", "root", "blocks"] = Field(
        "none",
        description="divide weights, gradients and optimizer state among the processes, gathered"
        " all at once (root) or block by block (blocks)",
        json_schema_extra=STEP,
    )
    sync_bn: bool = Field(
        False,
        description="compute batch-norm statistics over the images of all processes; GPUs only",
        json_schema_extra=STEP,
    )
    device: str = Field(
        "auto",
        description="auto, cpu, cuda, cuda:1 or mps",
        json_schema_extra=facts(this_machine=True, on_resume="rounded", in_comparison="free"),
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="precision of the training forward passes", json_schema_extra=STEP
    )
    tf32: bool = Field(
        True, description="on a GPU, multiply in TF32 while training", json_schema_extra=ROUNDED
    )
    deterministic: bool = Field(
        False, description="on a GPU, make sums in a fixed order", json_schema_extra=ROUNDED
    )
    fold: bool = Field(
        True, description="fold batch norms into convolutions: faster", json_schema_extra=STEP
    )
    layout: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto",
        description="of tensors inside the network; auto times both for few images on a CPU",
        json_schema_extra=facts(on_resume="rounded", in_comparison="free"),
    )
    freeze: tuple[str, ...] = Field(
        (), description="layers to leave as they are, like stem,layer1", json_schema_extra=STEP
    )
    freeze_norms: bool = Field(
        False, description="keep running statistics of batch norms as is", json_schema_extra=STEP
    )
    grad_checkpointing: bool = Field(
        False, description="recompute activations: less memory, more time", json_schema_extra=STEP
    )
    compile: Literal["none", "attack", "step", "both"] = Field(
        "none",
        description="torch.compile the forward passes of the attack, of the losses (step), or both",
        json_schema_extra=STEP,
    )
    track: tuple[Annotated[str, AfterValidator(check_tracker)], ...] = Field(
        (),
        description=f"also log metrics to {' or '.join(TRACKERS)}, in local files;"
        " repeat the flag for several",
        json_schema_extra=BESIDE_STEP,
    )
    ladder: Literal["none", "clean", "quick", "rand", "standard", "thorough"] = Field(
        "standard", description=LADDERS_OF_A_RUN, json_schema_extra=BESIDE_STEP
    )
    subset: int | None = Field(
        None,
        ge=1,
        description="judge only N test images, of all classes, the same ones in every evaluation",
        json_schema_extra=BESIDE_STEP,
    )
    use: dict[str, str] = Field(
        {},
        description="choose who provides a role: loss=NAME or attacker=NAME, a plugin or"
        f" {', '.join([*LOSSES, *ATTACKS])}; weights=NAME, whose weights are judged, a plugin or"
        f" {', '.join(JUDGED)}",
        json_schema_extra=STEP,
    )
    out: Path = Field(
        Path("runs"),
        description="folder in which run folders are created",
        json_schema_extra=MACHINE,
    )
    name: Annotated[str, AfterValidator(check_run_name)] | None = Field(
        None,
        description="name of the run folder; generated if not given",
        json_schema_extra=THIS_START,
    )
    checkpoint_every: int | None = Field(
        None,
        ge=1,
        description="steps between checkpoints; once per epoch if not given",
        json_schema_extra=BESIDE_STEP,
    )
    resume: bool = Field(
        False, description="continue from the newest valid checkpoint", json_schema_extra=THIS_START
    )
    restart: bool = Field(
        False,
        description="like --resume, but start from step 0 if no checkpoint is valid",
        json_schema_extra=THIS_START,
    )
    allow_mismatch: tuple[str, ...] = Field(
        (),
        description="what may differ from the checkpoint, like batch_size, torch or a plugin;"
        " the run is then not bit-exact",
        json_schema_extra=THIS_START,
    )
    dry_run: bool = Field(
        False, description="print the plan and stop", json_schema_extra=THIS_START
    )
    forecast: Literal["none", "here", "a100", "h100", "h200"] = Field(
        "none",
        description="say first what memory and time the run needs, here or on a named GPU",
        json_schema_extra=THIS_START,
    )
    trace: bool = Field(
        False, description="print hook calls and the calls of the run", json_schema_extra=DISPLAY
    )
    quiet: bool = Field(False, description="print errors only", json_schema_extra=DISPLAY)
    options: dict[str, SerializeAsAny[PluginConfig]] = Field(
        {}, description="options of the plugins, by name", json_schema_extra=facts(recorded=False)
    )
