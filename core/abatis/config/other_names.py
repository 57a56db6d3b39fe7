"""What other tools call our options, so that an option of theirs is answered with ours.

The names are those of ART, RobustBench, MAIR, timm, Hydra and Hugging Face's Trainer, and of much
released training code.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

OTHERS = {
    "accumulate": "accum-iter accum-steps grad-accum-steps gradient-accumulation-steps",
    "attack.start": "random-init random-start rand-init num-random-init",
    "attack.step-size": "alpha attack-lr eps-step epsilon-step pgd-alpha step-size",
    "attack.steps": "attack-iters attack-steps max-iter nb-iter num-steps perturb-steps pgd-iters"
    " pgd-steps steps",
    "auto-augment": "aa autoaugment rand-augment randaugment",
    "backbone": "arch architecture model model-name model-name-or-path model-type net network",
    "batch-size": "b batchsize bs eval-batch-size per-device-train-batch-size"
    " per-device-eval-batch-size train-batch-size",
    "checkpoint-every": "checkpoint-freq save-freq save-interval save-steps",
    "clip-grad": "clip-grad-norm grad-clip gradient-clip-val max-grad-norm",
    "compile": "torch-compile torchcompile",
    "config": "cfg config-file config-name config-path cn cp",
    "data": "dataset dataset-name ds",
    "data-dir": "data-path data-root dataset-dir root",
    "device": "accelerator cuda gpu gpu-id",
    "early-stop": "early-stopping early-stopping-patience patience",
    "ema": "ema-decay model-ema model-ema-decay swa use-ema",
    "epochs": "max-epochs n-epochs nb-epochs num-epochs num-train-epochs",
    "erasing": "random-erasing reprob",
    "grad-checkpointing": "gradient-checkpointing",
    "image-size": "img-size input-size",
    "init": "checkpoint checkpoint-path ckpt finetune init-checkpoint initial-checkpoint model-path"
    " pretrained-path weights",
    "ladder": "eval eval-strategy evaluation-strategy",
    "limit": "max-samples max-train-samples n-ex n-examples num-examples num-samples",
    "mix.cutmix": "cutmix cutmix-alpha",
    "mix.mixup": "mixup mixup-alpha",
    "mix.smoothing": "label-smoothing label-smoothing-factor ls smoothing",
    "name": "exp exp-name experiment fname run-name",
    "nproc": "devices gpus nproc-per-node num-gpus ngpus world-size",
    "optim.betas": "adam-betas betas opt-betas",
    "optim.gamma": "decay-rate gamma lr-decay lr-gamma",
    "optim.lr": "base-lr learning-rate lr lr-max max-lr",
    "optim.milestones": "decay-milestones lr-milestones lr-steps milestones",
    "optim.momentum": "momentum",
    "optim.name": "opt optim optimizer",
    "optim.nesterov": "nesterov",
    "optim.schedule": "lr-schedule lr-scheduler lr-scheduler-type sched schedule scheduler",
    "optim.warmup": "warmup warmup-epochs warmup-ratio warmup-steps",
    "optim.weight-decay": "decay l2-reg wd weight-decay",
    "out": "checkpoint-dir log-dir logdir logging-dir out-dir outdir output output-dir save-dir"
    " save-path",
    "plugin": "defence defense loss-fn method",
    "precision": "amp bf16 fp16 mixed-precision",
    "pretrained": "use-pretrained",
    "resume": "auto-resume resume-from resume-from-checkpoint",
    "seed": "manual-seed random-seed",
    "threat": "attack-eps eps epsilon norm pgd-eps test-eps threat-model train-eps",
    "track": "report-to tensorboard mlflow wandb logger",
    "validation": "val-frac val-size val-split validation-split",
    "workers": "dataloader-num-workers j num-workers",
}
"""By our option: the names that others use for it."""
OURS = {name: option for option, names in OTHERS.items() for name in names.split()}
SWITCHES = ("track", "precision", "pretrained", "ema", "resume", "optim.nesterov")
"""Options whose foreign name may be a switch: its value, if it has one, need not fit ours."""
NORMS = {"inf": "Linf", "linf": "Linf", "2": "L2", "l2": "L2", "1": "L1", "l1": "L1"}
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def find_ours(name: str) -> str:
    """Our option for a name of another tool, as in TOML; empty where it is none."""
    return OURS.get(name.replace("_", "-").lower(), "").replace("-", "_")


def translate(words: Sequence[str], position: int, known: Collection[str]) -> tuple[str, str]:
    """Our name for another tool's option.

    Args:
        words: The command line.
        position: The place of the option.
        known: Our options, with their hyphens.

    Returns:
        The option, and what to write for it, with the value that was given; both empty where the
        option is not one that others use.
    """
    flag, equals, value = words[position].partition("=")
    option = OURS.get(flag.lstrip("+-").replace("_", "-").lower(), "")
    if f"--{option}" not in known:
        return "", ""
    if not equals:
        following = words[position + 1 : position + 2]
        value = "" if not following or following[0].startswith("--") else following[0]
    if option == "threat":
        return "--threat", f"--threat {_make_threat(flag, value, words)}"
    if option == "track" and not value:
        value = flag.lstrip("+-")
    if option == "precision":
        value = "bf16"
    if option == "device" and value not in ("auto", "cpu", "mps"):
        value = f"cuda:{value}" if value.isdecimal() else "cuda"
    written = f"--{option} {value}" if value and option not in SWITCHES[2:] else f"--{option}"
    return f"--{option}", written


def _make_threat(flag: str, value: str, words: Sequence[str]) -> str:
    """A threat model from an eps, or a norm, and what else is given of it."""
    given = {word.lstrip("-"): following for word, following in pairwise(words)}
    is_norm = NORMS.get(value.lower(), "") if "eps" not in flag else ""
    norm = is_norm or NORMS.get(str(given.get("norm", "")).lower(), "Linf")
    eps = str(given.get("eps", given.get("epsilon", "EPS"))) if is_norm else value
    if norm == "Linf" and re.fullmatch(r"\d+(\.0*)?", eps) and float(eps) >= 1:
        eps = f"{float(eps):g}/255"  # pixels are in [0, 1] here
    return f"{norm}:{eps or 'EPS'}"


def write_switch(flag: str, value: str) -> str:
    """What to write for a switch and a value of it: ``--no-fold`` for ``--fold`` and ``False``."""
    if value.lower() in FALSE:
        return f"--no-{flag.removeprefix('--')}"
    return flag if value.lower() in TRUE else ""


def switch_instead(words: Sequence[str], value: str, known: Collection[str]) -> str:
    """What to write where a switch was given a value: ``--no-fold`` for ``--fold False``."""
    places = [place for place, word in enumerate(words[1:], start=1) if word == value]
    for place in places:
        flag = words[place - 1]
        if flag in known and f"--no-{flag.removeprefix('--')}" in known:
            return write_switch(flag, value)
    return ""
