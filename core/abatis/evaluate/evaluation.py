"""The ladder from clean accuracy to AutoAttack, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from abatis.errors import UsageError
from abatis.evaluate.autoattack import autoattack
from abatis.evaluate.guard import judging
from abatis.evaluate.judge import Clean, Judge, Progress, Split, Verdicts, share
from abatis.evaluate.pgd import STEP_SHARE, pgd
from abatis.types import Threat

PGD_STEPS = 20


@dataclass(frozen=True)
class Evaluation:
    """What was measured on n points; accuracies are fractions, None where the ladder did not go so far.

    attacks: settings and result of each attack; findings: plain sentences worth telling;
    per_point: by attack, (n,) bool on the CPU, in the order of the split.
    """

    n: int
    clean_acc: float
    pgd20_acc: float | None
    autoattack_acc: float | None
    attacks: Mapping[str, Mapping[str, object]]
    findings: tuple[str, ...]
    per_point: Mapping[str, Tensor]

    def to_json(self) -> dict[str, object]:
        """Everything in plain types, the verdicts as lists of 0 and 1."""
        return {
            "n": self.n,
            "clean_acc": self.clean_acc,
            "pgd20_acc": self.pgd20_acc,
            "autoattack_acc": self.autoattack_acc,
            "attacks": {name: dict(facts) for name, facts in self.attacks.items()},
            "findings": list(self.findings),
            "per_point": {name: flags.int().tolist() for name, flags in self.per_point.items()},
        }


def evaluate(
    module: nn.Module,
    split: Split,
    threat: Threat,
    *,
    ladder: Literal["quick", "standard"],
    seed: int,
    batch_size: int,
    device: torch.device,
    num_classes: int,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge a network of images in [0, 1] that gives logits: clean and PGD-20 (quick), then AutoAttack (standard).

    The module and all global state are left as found. Raises DataError, UsageError, NotFiniteError or OutOfMemoryError.
    """
    with judging(module) as net:
        judge = Judge(net, split, threat, batch_size, progress)
        clean = judge.clean()
        findings = _outputs(clean, num_classes)
        attack = pgd(net, threat, PGD_STEPS, seed)
        verdicts = [judge.attacked(f"PGD-{PGD_STEPS}", attack, clean.correct)]
        settings: dict[str, Mapping[str, object]] = {verdicts[0].name: _pgd_settings(threat, seed)}
        if ladder == "standard":
            standard = autoattack(judge, clean.correct, clean.classes, seed, device)
            verdicts += standard.verdicts
            settings |= standard.settings
            findings += standard.findings
    return _evaluation(clean, verdicts, settings, findings, threat)


def _evaluation(
    clean: Clean,
    verdicts: list[Verdicts],
    settings: dict[str, Mapping[str, object]],
    findings: list[str],
    threat: Threat,
) -> Evaluation:
    attacks = {name: {"norm": threat.norm, "eps": threat.text, **facts} for name, facts in settings.items()}
    points = {"clean": clean.correct} | {verdict.name: verdict.robust for verdict in verdicts}
    for verdict in verdicts:
        attacks[verdict.name] |= {"accuracy": verdict.accuracy, **verdict.facts}
        if rejected := verdict.facts["rejected"]:
            findings.append(
                f"{verdict.name}: {rejected} adversarial images did not hold when checked again (outside the ball or "
                "[0, 1], or classified correctly); they do not count as broken"
            )
    pgd20, *standard = verdicts
    if standard:
        points["AutoAttack"] = standard[-1].robust
    return Evaluation(
        n=len(clean.correct),
        clean_acc=share(clean.correct),
        pgd20_acc=pgd20.accuracy,
        autoattack_acc=standard[-1].accuracy if standard else None,
        attacks=attacks,
        findings=tuple(findings),
        per_point=points,
    )


def _outputs(clean: Clean, num_classes: int) -> list[str]:
    if clean.classes < num_classes:
        raise UsageError(
            f"the model has {clean.classes} outputs, the data have {num_classes} classes",
            where="evaluation",
            fix=f"give the model {num_classes} outputs, or choose the data it was trained on",
        )
    return ["the model's output looks like probabilities: AutoAttack needs logits"] if clean.distribution else []


def _pgd_settings(threat: Threat, seed: int) -> dict[str, object]:
    return {
        "loss": "cross-entropy",
        "steps": PGD_STEPS,
        "step_size": STEP_SHARE * threat.eps,
        "start": "uniform in the ball",
        "restarts": 1,
        "counts": "any point of the path that fools",
        "seed": seed,
    }
