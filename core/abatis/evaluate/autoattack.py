"""AutoAttack's standard version through the authors' package: one attack a call, on the points that still stand."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyautoattack
import torch
from pyautoattack import checks
from torch import Tensor

from abatis.evaluate.judge import Attack, Judge, Verdicts
from abatis.types import Batch

NAMES = {"apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T", "square": "Square"}
BLACK_BOX = "square"
BLACK_BOX_GAIN = 0.002  # share of all points a black-box attack may add before the gradients are suspect
TARGETED_LOSS_CLASSES = 4  # its denominator holds the third and the fourth logit
KNOWN_BETTER = "probability distribution"  # the clean pass looked at all points, the package at one batch of them
DEPRECATION = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)  # says nothing about the network


@dataclass(frozen=True)
class AutoAttacked:
    """verdicts: of each attack that ran, in order; settings: by the attack's name; findings: plain sentences."""

    verdicts: tuple[Verdicts, ...]
    settings: Mapping[str, Mapping[str, object]]
    findings: tuple[str, ...]


def autoattack(judge: Judge, correct: Tensor, classes: int, seed: int, device: torch.device) -> AutoAttacked:
    """Run the standard attacks in order on the correct points, (n,) bool; what K classes cannot have is left out.

    A point that one attack broke counts as broken in the verdicts of all that follow.
    """
    left_out = ["apgd-t"] if classes < TARGETED_LOSS_CLASSES else []
    findings = [f"AutoAttack ran without {name}: its loss is undefined for {classes} classes" for name in left_out]
    verdicts: list[Verdicts] = []
    settings: dict[str, Mapping[str, object]] = {
        "AutoAttack": {
            "version": "standard",
            "attacks": [name for name in NAMES if name not in left_out],
            "left_out": left_out,
            "seed": seed,
            "versions": {"pyautoattack": version("pyautoattack"), "torch": str(torch.__version__)},
        }
    }
    robust = correct
    with _quiet() as messages:
        for key, name in NAMES.items():
            if key in left_out:
                continue
            foreign = _standard(judge, key, classes, seed, device)
            settings[name] = _settings(foreign, key)
            verdict = judge.attacked(name, _as_attack(foreign), robust, f"AutoAttack {key}")
            if key == BLACK_BOX:
                findings += _black_box_gain(robust, verdict.robust)
            robust = verdict.robust
            verdicts.append(verdict)
    return AutoAttacked(tuple(verdicts), settings, (*findings, *_warned(messages)))


def _standard(judge: Judge, key: str, classes: int, seed: int, device: torch.device) -> Any:
    """The package's own standard version, cut down to one attack and to the classes there are."""
    foreign = pyautoattack.AutoAttack(
        judge.net, norm=judge.threat.norm, eps=judge.threat.eps, seed=seed, device=device, version="standard"
    )
    foreign.attacks_to_run, foreign.verbose = [key], False
    for attack in (foreign.apgd_targeted, foreign.fab):
        attack.n_target_classes = min(attack.n_target_classes, classes - 1)
    return foreign


def _as_attack(foreign: Any) -> Attack:
    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))  # counted for ever, for whichever model was seen before
        x = batch.x.contiguous()  # the package takes views of it
        adversarial, predicted = foreign.run_standard_evaluation(x, batch.y, batch_size=len(batch))
        return adversarial, predicted != batch.y

    return attack


def _settings(foreign: Any, key: str) -> dict[str, object]:
    """What the attack is about to use, read off the package's objects."""
    apgd = {"step_size": 2 * foreign.epsilon, "step_schedule": "adaptive", "start": "random, at full radius"}
    if key == "apgd-ce":
        return {"loss": "cross-entropy", "steps": foreign.apgd.n_iter, "restarts": foreign.apgd.n_restarts, **apgd}
    if key == "apgd-t":
        return {"loss": "targeted DLR", **_targeted(foreign.apgd_targeted), **apgd}
    if key == "fab-t":
        return {"loss": "logit difference", **_targeted(foreign.fab), "start": "clean image"}
    square = foreign.square
    return {"loss": square.loss, "queries": square.n_queries, "restarts": square.n_restarts, "start": "random"}


def _targeted(attack: Any) -> dict[str, object]:
    return {"steps": attack.n_iter, "restarts": attack.n_restarts, "targets": attack.n_target_classes}


def _black_box_gain(before: Tensor, after: Tensor) -> list[str]:
    gain = int((before & ~after).sum()) / len(before)
    if gain <= BLACK_BOX_GAIN:
        return []
    return [
        f"Square, which sees no gradients, broke {100 * gain:.2f} points of accuracy beyond the white-box attacks: "
        "gradients may be masked and the robustness overrated"
    ]


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Collects what the package would print: its warnings, and Python's; its logger is left as found."""
    messages: list[str] = []
    logger = logging.getLogger("auto-attack")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    propagate, level = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield messages
            messages += [str(warning.message) for warning in caught if not issubclass(warning.category, DEPRECATION)]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _warned(messages: list[str]) -> list[str]:
    """One finding for each kind of warning: batches and targets repeat it with other numbers."""
    kinds: dict[str, list[str]] = {}
    for message in messages:
        if KNOWN_BETTER in message:
            continue
        kinds.setdefault(re.sub(r"\d+", "#", message), []).append(message.partition(" See flags_doc.md")[0])
    return [
        f"AutoAttack warns: {first}" + (f" (the first of {1 + len(more)} such warnings)" if more else "")
        for first, *more in kinds.values()
    ]
