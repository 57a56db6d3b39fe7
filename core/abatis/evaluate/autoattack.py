"""AutoAttack through the authors' package: one attack a call, on the points that still stand."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version as version_of
from typing import Any, Literal

import pyautoattack
import torch
from pyautoattack import checks
from torch import Tensor

from abatis.api.batch import Batch
from abatis.evaluate.fewer_queries import ask_in_bf16, drop_fooled, skip_known
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.judge import Attack, Judge, Verdicts

Version = Literal["standard", "plus", "fast"]
NAMES = {
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "fab": "FAB",
    "square": "Square",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
}
CLASSES = {
    "apgd-dlr": 3,
    "apgd-t": 4,
}  # that a loss needs: its denominator holds the third (and the fourth) logit
BLACK_BOX = "square"
BLACK_BOX_GAIN = (
    0.002  # share of all points a black-box attack may add before the gradients are suspect
)
KNOWN_BETTER = "probability distribution"  # the clean pass looked at all points, the package at one batch of them
DEPRECATION = (
    DeprecationWarning,
    PendingDeprecationWarning,
    FutureWarning,
)  # says nothing about the network


@dataclass(frozen=True)
class AutoAttacked:
    """verdicts: of each attack that ran, in order; settings: by the attack's name; findings: plain sentences."""

    verdicts: tuple[Verdicts, ...]
    settings: Mapping[str, Mapping[str, object]]
    findings: tuple[str, ...]


def autoattack(
    judge: Judge,
    correct: Tensor,
    classes: int,
    seed: int,
    device: torch.device,
    memory: FinishedAttacks,
    version: Version = "standard",
) -> AutoAttacked:
    """Run a version's attacks in order on the correct points, (n,) bool; what K classes cannot have is left out.

    A point that one attack broke counts as broken in the verdicts of all that follow.
    """
    family = family_of(version)
    keys = _package(judge, version, seed, device).attacks_to_run
    left_out = [key for key in keys if classes < CLASSES.get(key, 2)]
    findings = [
        f"{family} ran without {key}: its loss is undefined for {classes} classes"
        for key in left_out
    ]
    versions = {"pyautoattack": version_of("pyautoattack"), "torch": str(torch.__version__)}
    chosen = [key for key in keys if key not in left_out]
    overall = {
        "version": version,
        "attacks": chosen,
        "left_out": left_out,
        "seed": seed,
        "versions": versions,
    }
    settings: dict[str, Mapping[str, object]] = {family: overall}
    verdicts: list[Verdicts] = []
    robust = correct
    for key in chosen:
        foreign = _one(_package(judge, version, seed, device), key, classes)
        name = _name_of(version, key)
        settings[name] = _settings(foreign, key)
        verdict = memory.once(name, partial(_run, judge, name, foreign, robust, f"{family} {key}"))
        if key == BLACK_BOX:
            findings += _black_box_gain(robust, verdict.robust)
        robust = verdict.robust
        verdicts.append(verdict)
    return AutoAttacked(
        tuple(verdicts),
        settings,
        (*findings, *_warned([text for one in verdicts for text in one.warnings])),
    )


def family_of(version: Version) -> str:
    """The name of a whole version in a record."""
    return "AutoAttack" if version == "standard" else f"AutoAttack {version}"


def _name_of(version: Version, key: str) -> str:
    """Of one attack. Fast is the standard version with Square's queries in bfloat16."""
    own = version == "plus" or (version == "fast" and key == BLACK_BOX)
    return f"{version} {NAMES[key]}" if own else NAMES[key]


def _run(judge: Judge, name: str, foreign: Any, robust: Tensor, label: str) -> Verdicts:
    with _quiet() as messages:
        verdict = judge.attacked(name, _as_attack(foreign), robust, label)
    return replace(verdict, warnings=tuple(messages))


def _package(judge: Judge, version: Version, seed: int, device: torch.device) -> Any:
    threat, own = judge.threat, "standard" if version == "fast" else version
    foreign = pyautoattack.AutoAttack(
        judge.net, norm=threat.norm, eps=threat.eps, seed=seed, device=device, version=own
    )
    foreign.verbose = False
    if version == "fast":
        ask_in_bf16(foreign.square, judge.net)
    if judge.steady:
        drop_fooled(foreign.apgd, threat)
        drop_fooled(foreign.apgd_targeted, threat)
        skip_known(foreign.square)
    return foreign


def _one(foreign: Any, key: str, classes: int) -> Any:
    """The package's own version, cut down to one attack and to the classes there are."""
    foreign.attacks_to_run = [key]
    for attack in (foreign.apgd_targeted, foreign.fab):
        attack.n_target_classes = min(attack.n_target_classes, classes - 1)
    return foreign


def _as_attack(foreign: Any) -> Attack:
    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        checks.funcs.update(
            dict.fromkeys(checks.funcs, 0)
        )  # counted for ever, for whichever model was seen before
        x = batch.x.contiguous()  # the package takes views of it
        adversarial, predicted = foreign.run_standard_evaluation(x, batch.y, batch_size=len(batch))
        return adversarial, predicted != batch.y

    return attack


def _settings(foreign: Any, key: str) -> dict[str, object]:
    """What the attack is about to use, read off the package's objects."""
    apgd = {
        "step_size": 2 * foreign.epsilon,
        "step_schedule": "adaptive",
        "start": "random, at full radius",
    }
    if key in ("apgd-ce", "apgd-dlr"):
        loss = "cross-entropy" if key == "apgd-ce" else "DLR"
        return {
            "loss": loss,
            "steps": foreign.apgd.n_iter,
            "restarts": foreign.apgd.n_restarts,
            **apgd,
        }
    if key == "apgd-t":
        return {"loss": "targeted DLR", **_targeted(foreign.apgd_targeted), **apgd}
    if key == "fab-t":
        return {
            "loss": "logit difference",
            **_targeted(foreign.fab),
            "restarts": 1,
            "start": "clean image",
        }
    if key == "fab":
        fab = foreign.fab
        return {
            "loss": "logit difference",
            "steps": fab.n_iter,
            "restarts": fab.n_restarts,
            "start": "clean, then random",
        }
    square = foreign.square
    return {
        "loss": square.loss,
        "queries": square.n_queries,
        "restarts": square.n_restarts,
        "start": "random",
    }


def _targeted(attack: Any) -> dict[str, object]:
    return {
        "steps": attack.n_iter,
        "restarts": attack.n_restarts,
        "targets": attack.n_target_classes,
    }


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
            messages += [
                str(warning.message)
                for warning in caught
                if not issubclass(warning.category, DEPRECATION)
            ]
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
        kinds.setdefault(re.sub(r"\d+", "#", message), []).append(
            message.partition(" See flags_doc.md")[0]
        )
    return [
        f"AutoAttack warns: {first}"
        + (f" (the first of {1 + len(more)} such warnings)" if more else "")
        for first, *more in kinds.values()
    ]
