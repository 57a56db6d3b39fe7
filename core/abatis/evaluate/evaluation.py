"""A whole evaluation of one network: attacks, masking diagnostics, margins and curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from abatis.api.threat import Threat
from abatis.data.order import choose_stratified
from abatis.errors import UsageError
from abatis.evaluate import pyautoattack_messages
from abatis.evaluate.curves import Curve, measure_curve
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.isolation import halve_until_fits, isolate
from abatis.evaluate.judge import Clean, Judge, compute_share
from abatis.evaluate.ladder import LadderResult, run_ladder
from abatis.evaluate.margins import (
    Margins,
    count_per_class,
    measure_five_steps,
    measure_margins,
)
from abatis.evaluate.masking.diagnosis import Diagnosis, diagnose
from abatis.evaluate.pgd import make_pgd
from abatis.evaluate.question import describe_question
from abatis.evaluate.request import EvaluationRequest
from abatis.report import numbers
from abatis.report.intervals import wilson_interval
from abatis.system import distributed

FORMAT = 2
DIAGNOSED = 256  # so many points, spread over all classes, get diagnostics, margins and curve
FINE_GRID = (0, 0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4)
"""The radii of the thorough ladder's curve, in multiples of eps."""

WITHOUT_PGD = Threat.parse("Linf:8/255")
"""The threat of the diagnostics if the requested one has no PGD."""


@dataclass(frozen=True)
class Evaluation:
    """The results on n points.

    Args:
        ladder: which attacks ran.
        n: number of points.
        accuracies: fractions of all points, by the keys of :mod:`abatis.report.numbers`, as far
            as the ladder measures them. ``robust_acc`` is the share that no attack broke, those
            of the diagnostics included.
        attacks: settings and result of each attack, by name.
        adaptive_attack: the plugins that brought an attack against themselves; None for none.
        per_point: which points are still classified correctly, by attack, (n,) bool on the CPU,
            in the order of the points; ``clean`` is without an attack, ``robust`` after all.
        per_class: counts of all, correct and robust points.
        diagnosis: the masking diagnostics.
        diagnosed: which points they saw, and the margins and the curve, (m,) int64.
        margins: None if no point is classified correctly.
        curve: accuracy over the radius.
        findings: sentences for the reader.
    """

    ladder: str
    n: int
    accuracies: Mapping[str, float]
    attacks: Mapping[str, Mapping[str, object]]
    adaptive_attack: str | None
    per_point: Mapping[str, Tensor]
    per_class: Mapping[str, list[int]]
    diagnosis: Diagnosis
    diagnosed: Tensor
    margins: Margins | None
    curve: Curve
    findings: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """PASS, UNDECIDED, WARN or FAIL of the masking diagnostics."""
        return self.diagnosis.verdict

    def to_json(self) -> dict[str, object]:
        """Return everything in plain types, verdicts of points as lists of 0 and 1."""
        counts = {name: int(flags.sum()) for name, flags in self.per_point.items()}
        return {
            "format": FORMAT,
            "ladder": self.ladder,
            "n": self.n,
            **{
                number.key: self.accuracies.get(number.key)
                for number in numbers.NUMBERS
                if number.key in self.accuracies or not number.optional
            },
            "verdict": self.verdict,
            "findings": list(self.findings),
            "counts": counts,
            "interval": {
                "clean_acc": list(wilson_interval(counts["clean"], self.n)),
                "robust_acc": list(wilson_interval(counts["robust"], self.n)),
            },
            "attacks": {name: dict(facts) for name, facts in self.attacks.items()},
            "adaptive_attack": self.adaptive_attack,
            "masking": {
                "points": len(self.diagnosed),
                **({"positions": self.diagnosed.tolist()} if len(self.diagnosed) < self.n else {}),
                "shortage": self.diagnosis.shortage or None,
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


def evaluate(module: nn.Module, request: EvaluationRequest) -> Evaluation:
    """Judge a network.

    The module and all global state are left as they were.

    Args:
        module: from images (B, C, H, W) in [0, 1] to logits (B, K).
        request: what is asked.

    Raises:
        DataError: there are no images, or they are not in [0, 1].
        UsageError: the outputs do not fit the data, or the ladder has no attack for the norm.
        NotFiniteError: a logit of a clean image is NaN or infinite.
        PluginError: an adaptive attack failed.
        OutOfMemoryError: the device has no memory for a single image.
    """
    points, threat, seed = request.points, request.threat, request.seed
    finished = FinishedAttacks()
    if request.state is not None:
        question = distributed.first_says(describe_question(module, request))
        if question is not None:
            finished = FinishedAttacks(request.state, question)
    with isolate(module) as net:
        judge = Judge(net, points, threat, request.batch_size, request.progress)
        clean = judge.classify_clean()
        _check_outputs(clean.classes, request.num_classes)
        judge.tune()
        ladder = run_ladder(judge, clean, request, finished)
        diagnosed = threat if threat.norm != "L1" else WITHOUT_PGD
        chosen = choose_stratified(clean.labels, DIAGNOSED)
        few = Judge(net, points.subset(chosen), diagnosed, request.batch_size, request.progress)
        known = ladder.get_survivors(chosen) if diagnosed is threat else {}
        diagnosis = diagnose(
            few, clean.at(chosen), seed=seed, known=known, training=request.training
        )
        fine = request.ladder == "thorough" and threat.norm != "L1"
        curve = _measure_fine_curve(judge, clean, ladder, seed) if fine else diagnosis.curve
        margins = None
        if clean.correct.any():
            margins = halve_until_fits(
                lambda size: _measure_margins(few, seed, size), request.batch_size
            )
            # a look at all points would take as long as the quick ladder's one attack
            stepped = few if request.ladder == "quick" else judge
            five_steps = halve_until_fits(
                lambda size: measure_five_steps(net, stepped.points.eval_batches(size)),
                request.batch_size,
            )
            margins = replace(margins, five_steps=five_steps)
    return _summarize(request, clean, ladder, diagnosis, chosen, margins, curve)


def _check_outputs(outputs: int, num_classes: int) -> None:
    if outputs < num_classes:
        raise UsageError(
            f"the model has {outputs} outputs, but the data have {num_classes} classes",
            where="evaluation",
            fix=f"use a model with {num_classes} outputs, or the data it was trained on",
        )


def _measure_fine_curve(judge: Judge, clean: Clean, ladder: LadderResult, seed: int) -> Curve:
    """Measure the curve over all points; the result at eps itself is taken from the ladder."""
    left = ladder.get_survivors(torch.arange(len(judge.points))).values()
    eps = judge.threat.eps
    known = {eps: torch.stack([*left]).all(0)} if len(left) == 2 else {}
    return measure_curve(judge, clean.correct, [factor * eps for factor in FINE_GRID], seed, known)


def _measure_margins(judge: Judge, seed: int, batch_size: int) -> Margins:
    """Measure margins at the points and at their PGD-20 images, correct or not."""
    attack = make_pgd(judge.net, judge.threat, 20, seed)
    adversarial = torch.cat([attack(batch)[0] for batch in judge.points.eval_batches(batch_size)])
    return measure_margins(
        judge.net, judge.points.eval_batches(batch_size), judge.threat.norm, adversarial
    )


def _summarize(
    request: EvaluationRequest,
    clean: Clean,
    ladder: LadderResult,
    diagnosis: Diagnosis,
    diagnosed: Tensor,
    margins: Margins | None,
    curve: Curve,
) -> Evaluation:
    robust = clean.correct.clone()
    for verdict in ladder.verdicts.values():
        robust &= verdict.robust
    findings = [
        *diagnosis.list_findings(),
        *ladder.findings,
        *pyautoattack_messages.check_version(),
        *_list_rejections(ladder),
    ]
    if request.threat.norm != "L1":
        robust[diagnosed] &= diagnosis.robust
    else:
        findings.append(
            f"the masking diagnostics used {WITHOUT_PGD}: they need PGD, which does not support L1"
        )
    per_point = {
        "clean": clean.correct,
        **{name: verdict.robust for name, verdict in ladder.verdicts.items()},
        "robust": robust,
    }
    providers = [
        str(facts["provider"]) for facts in ladder.settings.values() if "provider" in facts
    ]
    return Evaluation(
        ladder=request.ladder,
        n=len(clean.correct),
        accuracies={
            number.key: compute_share(per_point[number.verdicts])
            for number in numbers.NUMBERS
            if number.verdicts in per_point
        },
        attacks=_describe_attacks(request.threat, ladder),
        adaptive_attack=", ".join(providers) or None,
        per_point=per_point,
        per_class=count_per_class(clean.labels, clean.correct, robust, clean.classes),
        diagnosis=diagnosis,
        diagnosed=diagnosed,
        margins=margins,
        curve=curve,
        findings=tuple(findings),
    )


def _describe_attacks(threat: Threat, ladder: LadderResult) -> dict[str, dict[str, object]]:
    attacks = {
        name: {"norm": threat.norm, "eps": threat.text, **facts}
        for name, facts in ladder.settings.items()
    }
    for name, verdict in ladder.verdicts.items():
        attacks[name] |= {"accuracy": verdict.accuracy, **verdict.facts}
    return attacks


def _list_rejections(ladder: LadderResult) -> list[str]:
    return [
        f"{name}: {rejected} adversarial images failed the final check (outside the ball or "
        "[0, 1], or classified correctly); they do not count as broken"
        for name, verdict in ladder.verdicts.items()
        if (rejected := verdict.facts.get("rejected"))
    ]
