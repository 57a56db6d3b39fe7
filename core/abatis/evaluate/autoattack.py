"""AutoAttack (Croce and Hein, ICML 2020) through pyautoattack, one attack at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version as version_of
from typing import Any, Literal

import pyautoattack
import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.evaluate import pyautoattack_messages
from abatis.evaluate.fab_projection import replace_projections
from abatis.evaluate.fewer_queries import ask_in_bf16, drop_fooled, make_queries
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.judge import Attack, Clean, Judge, Verdicts
from abatis.evaluate.square import replace_search

Version = Literal["standard", "plus", "fast", "rand"]
NAMES = {
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "fab": "FAB",
    "square": "Square",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
}
CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
"""Classes that a loss needs: its denominator holds the third (and the fourth) logit."""

BLACK_BOX = "square"
BLACK_BOX_GAIN = 0.002
"""Share of all points that a black-box attack may add before the gradients are suspect."""


@dataclass(frozen=True)
class AutoAttackResult:
    """What a version of AutoAttack found.

    Args:
        verdicts: of each attack that ran, in order.
        settings: by the attack's name.
        findings: sentences for the reader.
    """

    verdicts: tuple[Verdicts, ...]
    settings: Mapping[str, Mapping[str, object]]
    findings: tuple[str, ...]


def run_autoattack(
    judge: Judge,
    clean: Clean,
    seed: int,
    device: torch.device,
    finished: FinishedAttacks,
    version: Version = "standard",
    blind: bool = False,
) -> AutoAttackResult:
    """Run a version's attacks in order on the points that are correct without an attack.

    A point that one attack broke counts as broken in the verdicts of all that follow. An attack
    whose loss is not defined for so few classes is left out, with a finding.

    Args:
        judge: of the network and the points.
        clean: results on the clean images.
        seed: of the package's random draws.
        device: of the network.
        finished: attacks that need not run again.
        version: ``fast`` is the standard one with Square's queries in bfloat16; ``rand`` averages
            gradients over 20 draws of a randomised network.
        blind: has the network no gradients? Then only attacks that need none run.
    """
    family = get_version_name(version)
    keys = _build_package(judge, version, seed, device).attacks_to_run
    if blind:
        keys = [key for key in keys if key == BLACK_BOX]
    left_out = [key for key in keys if clean.classes < CLASSES.get(key, 2)]
    findings = [
        f"{family} ran without {key}: its loss is not defined for {clean.classes} classes"
        for key in left_out
    ]
    chosen = [key for key in keys if key not in left_out]
    overall = _describe_version(version, chosen, left_out, seed)
    settings: dict[str, Mapping[str, object]] = {family: overall}
    verdicts: list[Verdicts] = []
    robust = clean.correct
    for key in chosen:
        foreign = _select_attack(_build_package(judge, version, seed, device), key, clean.classes)
        name, label = _get_attack_name(version, key), f"{family} {key}"
        settings[name] = _read_settings(foreign, key)
        verdict = finished.get_or_run(
            name,
            partial(_run, judge, name, foreign, robust, label),
            {**overall, **settings[name]},
            robust,
        )
        if key == BLACK_BOX and not blind:
            findings += _check_black_box(robust, verdict.robust)
        robust = verdict.robust
        verdicts.append(verdict)
    findings += pyautoattack_messages.summarize_warnings(
        [text for one in verdicts for text in one.warnings]
    )
    return AutoAttackResult(tuple(verdicts), settings, tuple(findings))


def _describe_version(
    version: Version, chosen: list[str], left_out: list[str], seed: int
) -> dict[str, object]:
    return {
        "version": version,
        "attacks": chosen,
        "left_out": left_out,
        "seed": seed,
        "versions": {
            "pyautoattack": version_of("pyautoattack"),
            "torch": str(torch.__version__),
        },
    }


def get_version_name(version: Version) -> str:
    """Return the name of a whole version in a record."""
    return "AutoAttack" if version == "standard" else f"AutoAttack {version}"


def _get_attack_name(version: Version, key: str) -> str:
    own = version in ("plus", "rand") or (version == "fast" and key == BLACK_BOX)
    return f"{version} {NAMES[key]}" if own else NAMES[key]


def _run(judge: Judge, name: str, foreign: Any, robust: Tensor, label: str) -> Verdicts:
    with pyautoattack_messages.collect_warnings() as messages:
        verdict = judge.run_attack(name, _adapt(foreign), robust, label)
    return replace(verdict, warnings=tuple(messages))


def _build_package(judge: Judge, version: Version, seed: int, device: torch.device) -> Any:
    """Return the package's object, with the shortcuts if its version is known."""
    threat, own = judge.threat, "standard" if version == "fast" else version
    foreign = pyautoattack.AutoAttack(
        judge.single if version == "rand" else judge.net,
        norm=threat.norm,
        eps=threat.eps,
        seed=seed,
        device=device,
        version=own,
    )
    foreign.verbose = False
    if not pyautoattack_messages.is_tested():
        return foreign
    replace_projections(foreign.fab)
    ask = make_queries(judge.net)
    if version == "fast":
        ask = ask_in_bf16(foreign.square, judge.net)
    if judge.steady and version != "rand":
        drop_fooled(foreign.apgd, threat)
        drop_fooled(foreign.apgd_targeted, threat)
        replace_search(foreign.square, ask)
    return foreign


def _select_attack(foreign: Any, key: str, classes: int) -> Any:
    """Cut the package's version down to one attack, and to the number of classes."""
    foreign.attacks_to_run = [key]
    for attack in (foreign.apgd_targeted, foreign.fab):
        attack.n_target_classes = min(attack.n_target_classes, classes - 1)
    return foreign


def _adapt(foreign: Any) -> Attack:
    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        pyautoattack_messages.reset_call_counts()
        x = batch.x.contiguous()  # the package takes views of it
        adversarial, predicted = foreign.run_standard_evaluation(x, batch.y, batch_size=len(batch))
        return adversarial, predicted != batch.y

    return attack


def _read_settings(foreign: Any, key: str) -> dict[str, object]:
    """Read what the attack will use from the package's objects."""
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
            **({"gradient_draws": foreign.apgd.eot_iter} if foreign.apgd.eot_iter > 1 else {}),
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


def _check_black_box(before: Tensor, after: Tensor) -> list[str]:
    gain = int((before & ~after).sum()) / len(before)
    if gain <= BLACK_BOX_GAIN:
        return []
    return [
        f"Square, which uses no gradients, lowered the accuracy by {100 * gain:.2f} points more "
        "than the white-box attacks: gradients may be masked, and the robustness overestimated"
    ]
