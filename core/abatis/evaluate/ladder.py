"""The ladders: which attacks a network faces, in order, from a quick look to the strongest there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from abatis.api.batch import Batch
from abatis.api.context import AdaptiveAttack
from abatis.api.randomness import seeded
from abatis.config.run_config import Ladder
from abatis.errors import UsageError
from abatis.evaluate.autoattack import AutoAttacked, Version, autoattack, family_of
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.judge import Attack, Clean, Judge, Verdicts, right
from abatis.evaluate.pgd import STEP_SHARE, Objective, cross_entropy, margin, pgd
from abatis.system.plugin_errors import blamed

OBJECTIVES = {"cross-entropy": cross_entropy, "margin": margin}
AUTOATTACK, FAST = family_of("standard"), family_of("fast")
MARGIN_PGD = "margin-PGD-20"
PGD = "PGD-20"


@dataclass(frozen=True)
class Rung:
    """One PGD attack of a ladder; loss: a key of OBJECTIVES."""

    name: str
    loss: str
    steps: int
    restarts: int = 1


QUICK = (Rung(PGD, "cross-entropy", 20),)
STANDARD = (*QUICK, Rung(MARGIN_PGD, "margin", 20))
THOROUGH = (
    *STANDARD,
    Rung("PGD-100 x 5", "cross-entropy", 100, 5),
    Rung("margin-PGD-100 x 5", "margin", 100, 5),
)
PGD_RUNGS: dict[str, tuple[Rung, ...]] = {
    "quick": QUICK,
    "standard": STANDARD,
    "thorough": THOROUGH,
}
VERSIONS: dict[str, tuple[Version, ...]] = {
    "quick": (),
    "standard": ("standard",),
    "thorough": ("standard", "plus"),
}


@dataclass
class Climbed:
    """What the attacks of a ladder left: verdicts and settings by name, in order, and plain sentences."""

    verdicts: dict[str, Verdicts] = field(default_factory=dict)
    settings: dict[str, Mapping[str, object]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def held(self, n: int) -> dict[Objective, Tensor]:
        """Which of the first n points, (n,) bool, PGD-20 left, by its loss, where every image that it made held."""
        found = {
            OBJECTIVES[rung.loss]: self.verdicts[rung.name]
            for rung in STANDARD
            if rung.name in self.verdicts
        }
        return {
            loss: one.robust[:n]
            for loss, one in found.items()
            if not (one.facts["rejected"] or one.stray)
        }


def climb(
    judge: Judge,
    clean: Clean,
    ladder: Ladder,
    *,
    seed: int,
    device: torch.device,
    memory: FinishedAttacks,
    adaptive: Mapping[str, AdaptiveAttack],
    square_bf16: bool,
) -> Climbed:
    """Run a ladder's attacks, each on all points that are right without any, and the defenses' own adaptive ones.

    With ``square_bf16`` the fast version of AutoAttack takes the place of the standard one.
    """
    result = Climbed()
    threat = judge.threat
    if threat.norm == "L1":
        if ladder == "quick":
            raise UsageError(
                "the quick ladder has no attack under L1",
                fix="take the standard one: AutoAttack attacks there, too",
            )
        result.findings.append("PGD was left out: there is none for L1 here")
    for rung in PGD_RUNGS[ladder] if threat.norm != "L1" else ():
        attack = pgd(
            judge.net, threat, rung.steps, seed, OBJECTIVES[rung.loss], range(rung.restarts)
        )
        result.verdicts[rung.name] = memory.once(
            rung.name, _run(judge, rung.name, attack, clean.correct)
        )
        result.settings[rung.name] = {
            "loss": rung.loss,
            "steps": rung.steps,
            "step_size": STEP_SHARE * threat.eps,
            "start": "uniform in the ball",
            "restarts": rung.restarts,
            "counts": "any point of the path that fools",
            "seed": seed,
        }
    for plugin, foreign in adaptive.items():
        name = f"adaptive ({plugin})"
        with blamed(plugin, "adaptive attack"):
            result.verdicts[name] = memory.once(
                name, _run(judge, name, _adapted(judge, foreign, seed), clean.correct)
            )
        result.settings[name] = {"provider": plugin, "seed": seed}
    for version in VERSIONS[ladder]:
        chosen: Version = "fast" if square_bf16 and version == "standard" else version
        _add(
            result,
            autoattack(judge, clean.correct, clean.classes, seed, device, memory, chosen),
            chosen,
        )
    return result


def _run(judge: Judge, name: str, attack: Attack, correct: Tensor) -> Callable[[], Verdicts]:
    return lambda: judge.attacked(name, attack, correct)


def _adapted(judge: Judge, foreign: AdaptiveAttack, seed: int) -> Attack:
    """A plugin's attack against itself; it makes images, and the network says which of them fool."""

    def attack(batch: Batch) -> tuple[Tensor, Tensor]:
        with seeded(seed, "adaptive attack", int(batch.index[0])):
            adversarial = foreign(judge.net, batch, judge.threat).detach()
        with torch.no_grad():
            return adversarial, ~right(judge.net(adversarial), batch.y)

    return attack


def _add(result: Climbed, attacked: AutoAttacked, version: Version) -> None:
    family = family_of(version)
    result.verdicts |= {verdict.name: verdict for verdict in attacked.verdicts}
    if attacked.verdicts:
        last = attacked.verdicts[-1]
        result.verdicts[family] = Verdicts(family, last.robust)
    result.settings |= attacked.settings
    result.findings += attacked.findings
