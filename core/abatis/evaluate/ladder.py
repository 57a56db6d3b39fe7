"""The ladders: which attacks run, in order, from a quick look to the strongest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.api.context import AdaptiveAttack
from abatis.api.randomness import seeded
from abatis.evaluate import pyautoattack_messages
from abatis.evaluate.also.running import run_also
from abatis.evaluate.autoattack import Version, get_version_name, run_autoattack
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.gradient_access import GradientAccess
from abatis.evaluate.judge import Attack, Clean, Judge, Verdicts, find_correct
from abatis.evaluate.pgd import STEP_SHARE, Objective, cross_entropy, make_pgd, margin
from abatis.evaluate.randomised import DrawJudge, make_deep_pgd
from abatis.evaluate.request import EvaluationRequest
from abatis.system.plugin_errors import blame_plugin

RAND_IN_L1 = (
    "AutoAttack rand is not defined for L1: it ran with one start, and without larger balls, so "
    "the robust accuracy can be too high"
)
OBJECTIVES = {"cross-entropy": cross_entropy, "margin": margin}


@dataclass(frozen=True)
class Rung:
    """One PGD attack of a ladder; loss: a key of OBJECTIVES."""

    name: str
    loss: str
    steps: int
    restarts: int = 1


TWENTY_STEPS = (
    Rung("PGD-20", "cross-entropy", 20),
    Rung("margin-PGD-20", "margin", 20),
)
THOROUGH = (
    *TWENTY_STEPS,
    Rung("PGD-100 x 5", "cross-entropy", 100, 5),
    Rung("margin-PGD-100 x 5", "margin", 100, 5),
)
PGD_RUNGS: dict[str, tuple[Rung, ...]] = {
    "quick": TWENTY_STEPS,
    "rand": TWENTY_STEPS,
    "standard": TWENTY_STEPS,
    "thorough": THOROUGH,
}
VERSIONS: dict[str, tuple[Version, ...]] = {
    "quick": (),
    "rand": ("rand",),
    "standard": ("standard",),
    "thorough": ("standard", "plus"),
}


@dataclass
class LadderResult:
    """What the attacks of a ladder found.

    Args:
        verdicts: by the attack's name, in order.
        settings: by the attack's name, in order.
        findings: sentences for the reader.
    """

    verdicts: dict[str, Verdicts] = field(default_factory=dict)
    settings: dict[str, Mapping[str, object]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def find_standing(self, correct: Tensor) -> Tensor:
        """Return which of the correct points, (n,) bool, no attack broke."""
        standing = correct.clone()
        for verdict in self.verdicts.values():
            standing &= verdict.robust
        return standing

    def get_survivors(self, positions: Tensor) -> dict[Objective, Tensor]:
        """Return which of the points at ``positions`` withstood PGD-20, (m,) bool, by its loss.

        Attacks with images that did not pass the judge's check are left out.
        """
        found = {
            OBJECTIVES[rung.loss]: self.verdicts[rung.name]
            for rung in TWENTY_STEPS
            if rung.name in self.verdicts
        }
        return {
            loss: one.robust[positions]
            for loss, one in found.items()
            if not (one.facts["rejected"] or one.stray)
        }


def run_ladder(
    judge: Judge,
    clean: Clean,
    request: EvaluationRequest,
    finished: FinishedAttacks,
    access: GradientAccess | None = None,
) -> LadderResult:
    """Run a ladder's attacks and the plugins' adaptive ones.

    Each attack sees all points that are correct without an attack; within AutoAttack a point that
    is broken is not attacked again.

    Args:
        judge: of the network and the points.
        clean: results on the clean images.
        request: what is asked.
        finished: attacks that need not run again.
        access: how far autograd reaches the images; where it reaches none of them, attacks that
            need gradients are not applicable.

    Raises:
        UsageError: the ladder has no attack for this norm.
        PluginError: an adaptive attack failed.
        OutOfMemoryError: the device has no memory for a single image.
    """
    result = LadderResult()
    blind = access.reason if access is not None and access.kind == "none" else ""
    if judge.threat.norm != "L1":
        _run_pgd(result, judge, clean, request, finished, blind)
    else:
        result.findings.append("PGD was left out: it does not support L1")
    for plugin, foreign in request.adaptive.items():
        name = f"adaptive ({plugin})"
        attack = _adapt(judge, foreign, request.seed)
        result.settings[name] = {"provider": plugin, "seed": request.seed}
        with blame_plugin(plugin, "adaptive attack"):
            result.verdicts[name] = finished.get_or_run(
                name,
                _run_later(judge, name, attack, clean.correct),
                result.settings[name],
                clean.correct,
            )
    swift = request.square_bf16 and pyautoattack_messages.is_tested()
    for version in VERSIONS[request.ladder]:
        chosen: Version = "fast" if swift and version == "standard" else version
        if isinstance(judge, DrawJudge):
            chosen = "rand"
            if judge.threat.norm == "L1":
                result.findings.append(RAND_IN_L1)
        _run_autoattack(result, judge, clean, request, finished, chosen, blind)
    verdicts, settings, findings = run_also(request.also, judge, clean, request.seed, finished)
    result.verdicts |= verdicts
    result.settings |= settings
    result.findings += findings
    return result


def _run_pgd(
    result: LadderResult,
    judge: Judge,
    clean: Clean,
    request: EvaluationRequest,
    finished: FinishedAttacks,
    blind: str,
) -> None:
    threat, seed = judge.threat, request.seed
    for rung in PGD_RUNGS[request.ladder]:
        objective, starts = OBJECTIVES[rung.loss], range(rung.restarts)
        attack = make_pgd(judge.net, threat, rung.steps, seed, objective, starts)
        if isinstance(judge, DrawJudge):
            attack = make_deep_pgd(judge.net, threat, rung.steps, seed, objective)
        result.settings[rung.name] = {
            "loss": rung.loss,
            "steps": rung.steps,
            "step_size": STEP_SHARE * threat.eps,
            "start": "uniform in the ball",
            "restarts": rung.restarts,
            "counts": "any point of the path that fools",
            "seed": seed,
        }
        if blind:
            _skip(result, rung.name, blind)
            continue
        if isinstance(judge, DrawJudge):
            result.settings[rung.name] = {
                **result.settings[rung.name],
                "restarts": 1,
                "counts": "the point of highest loss",
                "gradient_draws": judge.draws.gradient,
            }
        result.verdicts[rung.name] = finished.get_or_run(
            rung.name,
            _run_later(judge, rung.name, attack, clean.correct),
            result.settings[rung.name],
            clean.correct,
        )


def _skip(result: LadderResult, name: str, why: str) -> None:
    """Say that an attack is not applicable: it needs gradients, and there are none."""
    result.settings[name] = {**result.settings[name], "not_applicable": f"no gradient: {why}"}
    text = f"{name} is not applicable: no gradient reaches the images"
    if text not in result.findings:
        result.findings.append(text)


def _run_later(judge: Judge, name: str, attack: Attack, correct: Tensor) -> Callable[[], Verdicts]:
    return lambda: judge.run_attack(name, attack, correct)


def _adapt(judge: Judge, foreign: AdaptiveAttack, seed: int) -> Attack:
    """Wrap a plugin's attack: it makes the images, and the network tells which of them fool it."""

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        with seeded(seed, "adaptive attack", int(batch.index[0])):
            adversarial = foreign(judge.net, batch, judge.threat).detach()
        with torch.no_grad():
            return adversarial, ~find_correct(judge.net(adversarial), batch.y)

    return attack


def _run_autoattack(
    result: LadderResult,
    judge: Judge,
    clean: Clean,
    request: EvaluationRequest,
    finished: FinishedAttacks,
    version: Version,
    blind: str,
) -> None:
    found = run_autoattack(
        judge, clean, request.seed, request.device, finished, version, bool(blind)
    )
    family = get_version_name(version)
    result.verdicts |= {verdict.name: verdict for verdict in found.verdicts}
    if found.verdicts and not blind:  # black-box attacks alone are not AutoAttack
        result.verdicts[family] = Verdicts(family, found.verdicts[-1].robust)
        if isinstance(judge, DrawJudge):  # the stronger attack's; a minimum by point is too low
            counts = [judge.draws.right[verdict.name] for verdict in found.verdicts]
            judge.draws.right[family] = min(counts, key=lambda right: int(right.sum()))
    result.settings |= found.settings
    result.findings += found.findings
    if blind:
        _skip(result, family, blind)
