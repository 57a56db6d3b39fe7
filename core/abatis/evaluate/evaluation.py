"""Everything that is measured of one network: a ladder of attacks, the masking verdict, margins and curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from abatis.api.context import AdaptiveAttack
from abatis.api.threat import Threat
from abatis.config.run_config import Ladder
from abatis.errors import UsageError
from abatis.evaluate.curves import Curve, accuracy_curve
from abatis.evaluate.finished_attacks import FinishedAttacks, question
from abatis.evaluate.intervals import wilson
from abatis.evaluate.isolation import halving, judging
from abatis.evaluate.judge import Clean, First, Judge, Progress, Split, share
from abatis.evaluate.ladder import AUTOATTACK, FAST, MARGIN_PGD, PGD, Climbed, climb
from abatis.evaluate.margins import Margins, measure_margins, per_class
from abatis.evaluate.masking import Diagnosis, Training, diagnose
from abatis.evaluate.pgd import pgd

FORMAT = 2
DIAGNOSED = 256  # points, the first ones, for the masking diagnostics, the margins and the curve
FINE_GRID = (
    0,
    0.125,
    0.25,
    0.5,
    0.75,
    1,
    1.5,
    2,
    3,
    4,
)  # of the thorough ladder, in multiples of eps
WITHOUT_PGD = Threat.parse(
    "Linf:8/255"
)  # where the diagnostics look when the threat itself has no PGD


@dataclass(frozen=True)
class Evaluation:
    """What was measured on n points; accuracies are fractions, None where the ladder did not go so far.

    robust_acc: the share that no attack broke, the diagnostics' own included; verdict: PASS, WARN or FAIL of the masking
    diagnostics; attacks: settings and result of each attack; findings: plain sentences worth telling; per_point: by attack,
    (n,) bool on the CPU, in the order of the split; margins: None where no point is right.
    """

    ladder: str
    n: int
    clean_acc: float
    pgd20_acc: float | None
    margin_pgd20_acc: float | None
    autoattack_acc: float | None
    autoattack_fast_acc: float | None
    robust_acc: float
    attacks: Mapping[str, Mapping[str, object]]
    adaptive_attack: str | None
    per_point: Mapping[str, Tensor]
    per_class: Mapping[str, list[int]]
    diagnosis: Diagnosis
    margins: Margins | None
    curve: Curve
    findings: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """PASS, WARN or FAIL."""
        return self.diagnosis.verdict

    def to_json(self) -> dict[str, object]:
        """Everything in plain types, the verdicts as lists of 0 and 1."""
        counts = {name: int(flags.sum()) for name, flags in self.per_point.items()}
        return {
            "format": FORMAT,
            "ladder": self.ladder,
            "n": self.n,
            "clean_acc": self.clean_acc,
            "pgd20_acc": self.pgd20_acc,
            "margin_pgd20_acc": self.margin_pgd20_acc,
            "autoattack_acc": self.autoattack_acc,
            **(
                {}
                if self.autoattack_fast_acc is None
                else {"autoattack_fast_acc": self.autoattack_fast_acc}
            ),
            "robust_acc": self.robust_acc,
            "verdict": self.verdict,
            "findings": list(self.findings),
            "counts": counts,
            "interval": {
                "clean_acc": list(wilson(counts["clean"], self.n)),
                "robust_acc": list(wilson(counts["robust"], self.n)),
            },
            "attacks": {name: dict(facts) for name, facts in self.attacks.items()},
            "adaptive_attack": self.adaptive_attack,
            "masking": {
                "points": len(self.diagnosis.robust),
                "tests": [test.to_json() for test in self.diagnosis.tests],
            },
            "margins": None if self.margins is None else self.margins.to_json(),
            "curve": {
                "points": len(self.curve.right[0]),
                "norm": self.curve.norm,
                "eps": list(self.curve.eps),
                "accuracy": list(self.curve.accuracy),
            },
            "per_class": dict(self.per_class),
            "per_point": {name: flags.int().tolist() for name, flags in self.per_point.items()},
        }


def evaluate(
    module: nn.Module,
    split: Split,
    threat: Threat,
    *,
    ladder: Ladder,
    seed: int,
    batch_size: int,
    device: torch.device,
    num_classes: int,
    progress: Progress | None = None,
    state: Path | None = None,
    training: Training | None = None,
    adaptive: Mapping[str, AdaptiveAttack] | None = None,
    square_bf16: bool = False,
) -> Evaluation:
    """Judge a network of images in [0, 1] that gives logits.

    state: a file that keeps every finished attack, so that a killed evaluation goes on; training: what only the run that
    made the network knows; adaptive: attacks that a defense brings against itself, by plugin; square_bf16: queries of Square
    in bfloat16, for a number that is not pyautoattack's.
    The module and all global state are left as found. Raises DataError, UsageError, NotFiniteError or OutOfMemoryError.
    """
    memory = FinishedAttacks(
        state, question(module, split, threat, seed) if state is not None else {}
    )
    with judging(module) as net:
        judge = Judge(net, split, threat, batch_size, progress)
        clean = judge.clean()
        _check_outputs(clean.classes, num_classes)
        judge.tune()
        climbed = climb(
            judge,
            clean,
            ladder,
            seed=seed,
            device=device,
            memory=memory,
            adaptive=adaptive or {},
            square_bf16=square_bf16,
        )
        looked_at = threat if threat.norm != "L1" else WITHOUT_PGD
        few = Judge(net, First(split, DIAGNOSED), looked_at, batch_size, progress)
        known = climbed.held(DIAGNOSED) if looked_at is threat else {}
        diagnosis = diagnose(few, clean.first(DIAGNOSED), seed=seed, known=known, training=training)
        fine = ladder == "thorough" and threat.norm != "L1"
        curve = _fine_curve(judge, clean, climbed, seed) if fine else diagnosis.curve
        margins = (
            halving(lambda size: _margins(few, seed, size), batch_size)
            if clean.correct.any()
            else None
        )
    return _evaluation(ladder, threat, clean, climbed, diagnosis, margins, curve, looked_at)


def _check_outputs(outputs: int, num_classes: int) -> None:
    if outputs < num_classes:
        raise UsageError(
            f"the model has {outputs} outputs, the data have {num_classes} classes",
            where="evaluation",
            fix=f"give the model {num_classes} outputs, or choose the data it was trained on",
        )


def _fine_curve(judge: Judge, clean: Clean, climbed: Climbed, seed: int) -> Curve:
    """Over all points; at eps itself the ladder has been."""
    left = climbed.held(len(judge.split)).values()
    eps = judge.threat.eps
    known = {eps: torch.stack([*left]).all(0)} if len(left) == 2 else {}
    return accuracy_curve(judge, clean.correct, [factor * eps for factor in FINE_GRID], seed, known)


def _margins(judge: Judge, seed: int, batch_size: int) -> Margins:
    """At the points and at what PGD-20 makes of them, right or wrong."""
    attack = pgd(judge.net, judge.threat, 20, seed)
    adversarial = torch.cat([attack(batch)[0] for batch in judge.split.eval_batches(batch_size)])
    return measure_margins(
        judge.net, judge.split.eval_batches(batch_size), judge.threat.norm, adversarial
    )


def _evaluation(
    ladder: Ladder,
    threat: Threat,
    clean: Clean,
    climbed: Climbed,
    diagnosis: Diagnosis,
    margins: Margins | None,
    curve: Curve,
    looked_at: Threat,
) -> Evaluation:
    verdicts = climbed.verdicts
    robust = clean.correct.clone()
    for verdict in verdicts.values():
        robust &= verdict.robust
    findings = [*diagnosis.findings(), *climbed.findings, *_rejections(climbed)]
    if looked_at is threat:
        robust[: len(diagnosis.robust)] &= diagnosis.robust
    else:
        findings.append(f"the masking diagnostics looked at {looked_at}, where there is a PGD")
    attacks = {
        name: {"norm": threat.norm, "eps": threat.text, **facts}
        for name, facts in climbed.settings.items()
    }
    for name, verdict in verdicts.items():
        attacks[name] |= {"accuracy": verdict.accuracy, **verdict.facts}
    return Evaluation(
        ladder=ladder,
        n=len(clean.correct),
        clean_acc=share(clean.correct),
        pgd20_acc=verdicts[PGD].accuracy if PGD in verdicts else None,
        margin_pgd20_acc=verdicts[MARGIN_PGD].accuracy if MARGIN_PGD in verdicts else None,
        autoattack_acc=verdicts[AUTOATTACK].accuracy if AUTOATTACK in verdicts else None,
        autoattack_fast_acc=verdicts[FAST].accuracy if FAST in verdicts else None,
        robust_acc=share(robust),
        attacks=attacks,
        adaptive_attack=", ".join(
            str(facts["provider"]) for facts in climbed.settings.values() if "provider" in facts
        )
        or None,
        per_point={
            "clean": clean.correct,
            **{name: one.robust for name, one in verdicts.items()},
            "robust": robust,
        },
        per_class=per_class(clean.labels, clean.correct, robust, clean.classes),
        diagnosis=diagnosis,
        margins=margins,
        curve=curve,
        findings=tuple(findings),
    )


def _rejections(climbed: Climbed) -> list[str]:
    return [
        f"{name}: {rejected} adversarial images did not hold when checked again (outside the ball or [0, 1], or classified "
        "correctly); they do not count as broken"
        for name, verdict in climbed.verdicts.items()
        if (rejected := verdict.facts.get("rejected"))
    ]
