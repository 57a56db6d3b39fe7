"""A whole evaluation of one network: attacks, masking diagnostics, margins and curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from abatis.api.threat import Threat
from abatis.errors import UsageError
from abatis.evaluate import pyautoattack_messages
from abatis.evaluate.abstention import Abstentions
from abatis.evaluate.curves import Curve
from abatis.evaluate.examination import WITHOUT_PGD, Examination, examine
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.follow_up import ask_stranger
from abatis.evaluate.judge import compute_share
from abatis.evaluate.ladder import LadderResult
from abatis.evaluate.ladder_checks import check_ladder
from abatis.evaluate.margins import Margins, count_per_class
from abatis.evaluate.masking.diagnosis import Diagnosis, describe_left_out
from abatis.evaluate.pictures import draw_pictures
from abatis.evaluate.question import describe_question
from abatis.evaluate.randomised import Draws
from abatis.evaluate.request import EvaluationRequest
from abatis.evaluate.stranger.process import meet_stranger
from abatis.nets.layout import CONTIGUOUS
from abatis.report import numbers
from abatis.report.eval_record import FORMAT
from abatis.report.intervals import wilson_interval
from abatis.report.notebook import show_numbers
from abatis.system import distributed


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The results on n points.

    Args:
        ladder: which attacks ran.
        threat: norm and radius, such as ``Linf:8/255``.
        n: number of points.
        accuracies: fractions of all points, by the keys of :mod:`abatis.report.numbers`, as far
            as the ladder measures them. ``robust_acc`` is the share that no attack broke, those
            of the diagnostics included; where the verdict is FAIL, ``robust_acc_upper`` stands in
            its place. For a network that answers at random they are means over draws.
        attacks: settings and result of each attack, by name.
        adaptive_attack: the plugins that brought an attack against themselves; None for none.
        per_point: which points are still classified correctly, by attack, (n,) bool on the CPU,
            in the order of the points; ``clean`` is without an attack, ``robust`` after all.
        per_class: counts of all, correct and robust points.
        diagnosis: the masking diagnostics.
        diagnosed: which points they saw, and the margins and the curve, (m,) int64.
        margins: None if no point is classified correctly, and after the quick ladder.
        curve: accuracy over the radius.
        findings: sentences for the reader.
        layout: of tensors inside the network, in the attacks.
        draws: how often each point was right, for a network that answers at random.
        abstentions: None for a network that never abstained.
        pictures: of twelve images, see :func:`~abatis.evaluate.pictures.draw_pictures`.
    """

    ladder: str
    threat: str
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
    layout: str = CONTIGUOUS
    draws: Draws | None = None
    abstentions: Abstentions | None = None
    pictures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """PASS, UNDECIDED, WARN or FAIL of the masking diagnostics."""
        return self.diagnosis.verdict

    def __repr__(self) -> str:
        shown = {"ladder": self.ladder, "threat": self.threat, "n": self.n, **self.accuracies}
        shown["verdict"] = self.verdict
        return f"Evaluation({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        facts = [f"threat {self.threat}", f"{self.ladder} ladder"]
        return show_numbers(self.to_json(), facts, self.pictures)

    def to_json(self) -> dict[str, object]:
        """Return everything in plain types, verdicts of points as lists of 0 and 1."""
        counts = {name: int(flags.sum()) for name, flags in self.per_point.items()}
        return {
            "format": FORMAT,
            "ladder": self.ladder,
            "n": self.n,
            "layout": self.layout,
            **{
                number.key: self.accuracies.get(number.key)
                for number in numbers.NUMBERS
                if number.key in self.accuracies or not number.optional
            },
            "verdict": self.verdict,
            "findings": list(self.findings),
            "counts": counts,
            "interval": {
                key: list(wilson_interval(self.accuracies[key] * self.n, self.n))
                for key in (numbers.CLEAN.key, numbers.ROBUST.key, numbers.UPPER.key)
                if key in self.accuracies
            },
            **({} if self.draws is None else {"draws": self.draws.to_json()}),
            **({} if self.abstentions is None else {"abstained": self.abstentions.to_json()}),
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

    The module and all global state are left as they were. A copy of the network is asked in
    another process, which ends before this function returns.

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
    if request.ladder == "clean":
        raise UsageError("the clean ladder has no attacks", fix="use evaluate_clean, or another")
    check_ladder(request.ladder, [request.threat])
    with meet_stranger(module, request) as stranger:
        finished = FinishedAttacks()
        if request.state is not None:
            question = distributed.first_says(describe_question(module, request))
            if question is not None:
                finished = FinishedAttacks(request.state, question)
        found = examine(module, request, finished)
        ask_stranger(module, request, found, stranger)
    return replace(_summarize(request, found), pictures=draw_pictures(module, request, found))


def _summarize(request: EvaluationRequest, found: Examination) -> Evaluation:
    clean, ladder, diagnosis = found.clean, found.ladder, found.diagnosis
    findings = [
        *diagnosis.list_findings(),
        *ladder.findings,
        *([describe_left_out()] if request.cheap else []),
        *pyautoattack_messages.check_version(),
        *_list_rejections(ladder),
    ]
    if found.abstentions is not None:
        findings.append(found.abstentions.describe())
    if request.threat.norm == "L1":
        findings.append(
            f"the masking diagnostics used {WITHOUT_PGD}: they need PGD, which does not support "
            "L1. So do the searches without gradients: in L1 itself nothing but AutoAttack and "
            "the copy in a new process looked for adversarial images"
        )
    per_point = {
        "clean": clean.correct,
        **{name: verdict.robust for name, verdict in ladder.verdicts.items()},
        "robust": found.robust,
    }
    providers = [
        str(facts["provider"]) for facts in ladder.settings.values() if "provider" in facts
    ]
    return Evaluation(
        ladder=request.ladder,
        threat=str(request.threat),
        n=len(clean.correct),
        accuracies=_compute_accuracies(per_point, found),
        attacks=_describe_attacks(request.threat, ladder, found.draws),
        adaptive_attack=", ".join(providers) or None,
        per_point=per_point,
        per_class=count_per_class(clean.labels, clean.correct, found.robust, clean.classes),
        diagnosis=diagnosis,
        diagnosed=found.chosen,
        margins=found.margins,
        curve=found.curve,
        findings=tuple(findings),
        layout=found.layout,
        draws=found.draws,
        abstentions=found.abstentions,
    )


def _compute_accuracies(per_point: Mapping[str, Tensor], found: Examination) -> dict[str, float]:
    """The accuracies by key; where the verdict is FAIL, the robust one is an upper bound."""
    shares = {name: compute_share(flags) for name, flags in per_point.items()}
    if found.draws is not None:
        counts = found.draws.right.items()
        shares |= {name: found.draws.compute_mean(right) for name, right in counts}
    fails = found.diagnosis.verdict == "FAIL"
    left_out = numbers.ROBUST if fails else numbers.UPPER
    accuracies = {
        number.key: shares[number.verdicts]
        for number in numbers.NUMBERS
        if number.verdicts in shares and number != left_out
    }
    unseen = found.diagnosis.unseen
    if fails and unseen is not None:
        accuracies[numbers.UPPER.key] = min(accuracies[numbers.UPPER.key], unseen)
    return accuracies


def _describe_attacks(
    threat: Threat, ladder: LadderResult, draws: Draws | None
) -> dict[str, dict[str, object]]:
    attacks = {
        name: {"norm": threat.norm, "eps": threat.text, **facts}
        for name, facts in ladder.settings.items()
    }
    for name, verdict in ladder.verdicts.items():
        accuracy = verdict.accuracy
        if draws is not None and name in draws.right:
            accuracy = draws.compute_mean(draws.right[name])
        attacks[name] |= {"accuracy": accuracy, **verdict.facts}
    return attacks


def _list_rejections(ladder: LadderResult) -> list[str]:
    return [
        f"{name}: {rejected} adversarial images failed the final check (outside the ball or "
        "[0, 1], or classified correctly); they do not count as broken"
        for name, verdict in ladder.verdicts.items()
        if (rejected := verdict.facts.get("rejected"))
    ]
