"""How a network is examined: the ladder, the diagnostics, and what they call for on all points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from abatis.api.randomness import seed_for, seeded
from abatis.api.threat import Threat
from abatis.data.order import choose_stratified
from abatis.errors import AbatisError, UsageError
from abatis.evaluate.abstention import Abstentions, is_abstention, pursue_wrong_classes
from abatis.evaluate.curves import Curve, measure_curve
from abatis.evaluate.finished_attacks import FinishedAttacks
from abatis.evaluate.gradient_access import GradientAccess, WithGradient, find_gradient_access
from abatis.evaluate.isolation import halve_until_fits, isolate
from abatis.evaluate.judge import Clean, Judge, Verdicts
from abatis.evaluate.ladder import LadderResult, run_ladder
from abatis.evaluate.margins import Margins, measure_five_steps, measure_margins
from abatis.evaluate.masking.diagnosis import Diagnosis, diagnose
from abatis.evaluate.masking.doubts import SEARCHES
from abatis.evaluate.pgd import make_pgd
from abatis.evaluate.randomised import (
    DrawJudge,
    Draws,
    MeanOfDraws,
    count_gradient_draws,
    count_verdict_draws,
    find_randomness,
)
from abatis.evaluate.request import EvaluationRequest
from abatis.evaluate.withstood import Part, Withstood
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.system.torch_messages import is_out_of_memory

DIAGNOSED = 256  # so many points, spread over all classes, get diagnostics, margins and curve
DIAGNOSED_DRAWS = 4  # of a random network, behind each answer that the diagnostics see
FINE_GRID = (0, 0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4)
"""The radii of the thorough ladder's curve, in multiples of eps."""

BROKEN = "broken"  # among the facts of an attack that ran on some of the points only

WITHOUT_PGD = Threat.parse("Linf:8/255")
"""The threat of the diagnostics if the requested one has no PGD."""


@dataclass
class Examination:
    """What was found so far.

    Args:
        clean: results on the clean images.
        ladder: the attacks of the ladder, and those that the diagnostics called for.
        diagnosis: of the points that were chosen.
        chosen: these points, (m,) int64.
        robust: (n,) bool, correct and broken by nothing so far.
        withstood: adversarial images of the points that stand.
        curve: accuracy over the radius.
        margins: None where nothing is correct, or there are no gradients.
        layout: of tensors inside the network, in the attacks.
        draws: how often each point was right, for a network that answers at random.
        abstentions: None for a network that never abstained.
    """

    clean: Clean
    ladder: LadderResult
    diagnosis: Diagnosis
    chosen: Tensor
    robust: Tensor
    withstood: Withstood
    curve: Curve
    margins: Margins | None
    layout: str
    draws: Draws | None = None
    abstentions: Abstentions | None = None


@dataclass
class Subject:
    """The network that is examined, and what is known of it before the first attack.

    Args:
        module: the network.
        request: what is asked.
        finished: attacks that need not run again.
        clean: results on the clean images.
        chosen: the points of the diagnostics, (m,) int64.
        access: how far autograd reaches the images.
        random: does it answer at random?
    """

    module: nn.Module
    request: EvaluationRequest
    finished: FinishedAttacks
    clean: Clean
    chosen: Tensor
    access: GradientAccess
    random: bool
    withstood: Withstood = field(init=False)

    def __post_init__(self) -> None:
        album = self.finished.album
        album.open(self.clean.labels, bool(self.clean.distribution.all()))
        self.withstood = Withstood(
            len(self.clean.labels), self.request.seed, self.request.num_classes, album
        )

    @property
    def diagnosed(self) -> Threat:
        """The threat of the diagnostics."""
        return get_diagnosed_threat(self.request.threat)

    def make_judge(self, net: Net) -> Judge:
        """The judge of all points."""
        request = self.request
        return Judge(
            net,
            request.points,
            request.threat,
            request.batch_size,
            request.progress,
            self.withstood,
        )

    def make_few(self, net: Net) -> Judge:
        """The judge of the points that are diagnosed."""
        request = self.request
        kept = Part(self.withstood, self.chosen) if self.diagnosed is request.threat else None
        return Judge(
            net,
            request.points.subset(self.chosen),
            self.diagnosed,
            request.batch_size,
            request.progress,
            kept,
        )


def examine(
    module: nn.Module, request: EvaluationRequest, finished: FinishedAttacks
) -> Examination:
    """Run the ladder and the diagnostics, and on all points whatever broke more than the ladder.

    Raises:
        DataError: there are no images, or they are not in [0, 1].
        UsageError: the outputs do not fit the data, or the ladder has no attack for the norm.
        NotFiniteError: a logit of a clean image is NaN or infinite.
        PluginError: an adaptive attack failed.
        OutOfMemoryError: the device has no memory for a single image.
    """
    subject = _get_to_know(module, request, finished)
    if subject.access.kind == "all":
        try:
            return _run(subject)
        except (AbatisError, MemoryError):
            raise
        except Exception as error:  # the network's own backward may raise anything, anywhere
            if is_out_of_memory(error):
                raise
            again = _try_without_errors(subject, error)
            if again is None:
                raise
            return again
    return _run(replace(subject, module=WithGradient(module)))


def _get_to_know(
    module: nn.Module, request: EvaluationRequest, finished: FinishedAttacks
) -> Subject:
    with isolate(module) as net:
        points = request.points
        judge = Judge(net, points, request.threat, request.batch_size, request.progress)
        clean = judge.classify_clean()
        check_outputs(clean.classes, request.num_classes)
        chosen = choose_diagnosed(clean.labels, request.seed)
        threat = get_diagnosed_threat(request.threat)
        few = Judge(net, points.subset(chosen), threat, request.batch_size)
        access = distributed.first_says(find_gradient_access(few, request.seed))
        random = distributed.any_says(find_randomness(few, request.seed))
    if clean.classes == request.num_classes + 1:  # kept verdicts do not tell abstentions apart
        finished = FinishedAttacks()
    return Subject(module, request, finished, clean, chosen, access, random)


def get_diagnosed_threat(threat: Threat) -> Threat:
    """Return the threat of the diagnostics, which need PGD."""
    return threat if threat.norm != "L1" else WITHOUT_PGD


def choose_diagnosed(labels: Tensor, seed: int) -> Tensor:
    """Choose the points of the diagnostics, (m,) int64: at random, of all classes.

    The choice depends on the seed of the evaluation, so that no network is made for it.
    """
    return choose_stratified(labels, DIAGNOSED, seed_for(seed, "diagnosed points"))


def check_outputs(outputs: int, num_classes: int) -> None:
    """Raise UsageError where a network has fewer outputs than the data have classes."""
    if outputs < num_classes:
        raise UsageError(
            f"the model has {outputs} outputs, but the data have {num_classes} classes",
            where="evaluation",
            fix=f"use a model with {num_classes} outputs, or the data it was trained on",
        )


def _try_without_errors(subject: Subject, error: Exception) -> Examination | None:
    """Examine the network with zeros for the gradients that fail; None if that is not the cause."""
    forgiving = WithGradient(subject.module)
    says = f"{type(error).__name__}: {error}".splitlines()[0]
    access = GradientAccess(1, max(2, subject.access.of), says)
    found = _run(replace(subject, module=forgiving, access=access))
    return found if forgiving.lost else None


def _run(subject: Subject) -> Examination:
    if subject.random:
        with seeded(subject.request.seed, "draws"):
            return _run_random(subject)
    with isolate(subject.module) as net:
        judge = subject.make_judge(net)
        if subject.access.kind == "all":
            judge.tune(subject.request.layout)
        return _examine(subject, judge, subject.make_few(net), subject.clean)


def _run_random(subject: Subject) -> Examination:
    with isolate(subject.module) as net:
        draws = Draws(count_verdict_draws(len(subject.clean.labels)), 1)
        if subject.access.kind != "none":
            draws.gradient = distributed.first_says(count_gradient_draws(subject.make_few(net)))
        some = min(draws.gradient, DIAGNOSED_DRAWS)
        with (
            isolate(MeanOfDraws(subject.module, draws.gradient)) as mean,
            isolate(MeanOfDraws(subject.module, some)) as quick,
        ):
            every = torch.arange(len(subject.clean.labels))
            judge = DrawJudge(subject.make_judge(mean), net, draws, every)
            clean = judge.classify_clean()
            few = DrawJudge(subject.make_few(quick), net, draws, subject.chosen, judge.worst)
            subject = replace(subject, finished=FinishedAttacks())
            found = _examine(subject, judge, few, clean)
            judge.decide(clean.labels)
    found.draws = draws
    found.ladder.findings.append(draws.describe())
    found.robust &= 2 * draws.right["robust"] > draws.number
    return found


def _examine(subject: Subject, judge: Judge, few: Judge, clean: Clean) -> Examination:
    request, chosen, seed = subject.request, subject.chosen, subject.request.seed
    ladder = run_ladder(judge, clean, request, subject.finished, subject.access)
    standing = ladder.find_standing(clean.correct)
    alike = subject.diagnosed is request.threat
    diagnosis = diagnose(
        few,
        clean.at(chosen),
        seed=seed,
        known=ladder.get_survivors(chosen) if alike else {},
        training=request.training,
        standing=standing[chosen] if alike else None,
        access=subject.access,
        cheap=request.cheap,
    )
    blind = subject.access.kind == "none"
    fine = request.ladder == "thorough" and alike and not blind
    margins = None
    if clean.correct.any() and not blind and not request.cheap:
        margins = _measure_margins(few, judge, seed)
    curve = _measure_fine_curve(judge, clean, ladder, seed) if fine else diagnosis.curve
    kept = subject.withstood
    layout = judge.net.layout
    found = Examination(clean, ladder, diagnosis, chosen, standing, kept, curve, margins, layout)
    if alike:
        standing[chosen] &= diagnosis.robust
        _spread(judge, found, request)
    if not subject.random:
        found.abstentions = _count_abstentions(judge, found, request)
    return found


def _count_abstentions(
    judge: Judge, found: Examination, request: EvaluationRequest
) -> Abstentions | None:
    """Count abstentions, after an attack on the points that were broken by them alone."""
    clean, classes = found.clean, request.num_classes
    refused = int(is_abstention(clean.answers, clean.classes, classes).sum())
    alone = found.withstood.find_only_refused()
    if alone.any() and request.threat.norm != "L1":
        pursue_wrong_classes(judge, classes, alone, request.seed)
        alone = found.withstood.find_only_refused()
    if clean.classes != classes + 1 and not refused and not alone.any():
        return None
    return Abstentions(refused, int(alone.sum()))


def _spread(judge: Judge, found: Examination, request: EvaluationRequest) -> None:
    """Run on all points that stand what broke more than the ladder on those that were chosen."""
    others = torch.ones_like(found.robust)
    others[found.chosen] = False
    if not others.any():
        return
    for name, attack in found.diagnosis.breakers.items():
        title = f"{name}, all points"
        wanted = found.robust & others
        verdict = judge.run_attack(title, attack, wanted)
        found.robust &= verdict.robust | ~others
        robust, facts = found.robust.clone(), _count_broken(wanted, verdict)
        found.ladder.verdicts[title] = Verdicts(title, robust, facts, stray=verdict.stray)
        found.ladder.settings[title] = {"loss": "a diagnostic that broke more than the ladder"}
    search_points(judge, found, request, others, found.diagnosis.searches, "all points")


def _count_broken(wanted: Tensor, verdict: Verdicts) -> dict[str, int]:
    """The facts of an attack on some points, (n,) bool, with how many of them it broke."""
    return {**verdict.facts, BROKEN: int((wanted & ~verdict.robust).sum())}


def search_points(
    judge: Judge,
    found: Examination,
    request: EvaluationRequest,
    asked: Tensor,
    tests: Iterable[str],
    label: str,
) -> None:
    """Run the searches of some tests on points, (n,) bool; what they break does not stand."""
    others = None if request.training is None else request.training.images
    for test in tests:
        wanted = asked & found.robust
        search = SEARCHES[test][1](judge, found.clean, wanted, request.seed, others)
        for name, verdict in search.verdicts.items():
            title = f"{name}, {label}"
            found.robust &= verdict.robust | ~wanted
            facts = _count_broken(wanted, verdict)
            found.ladder.verdicts[title] = Verdicts(title, found.robust.clone(), facts)
            found.ladder.settings[title] = search.settings[name]


def _measure_fine_curve(judge: Judge, clean: Clean, ladder: LadderResult, seed: int) -> Curve:
    """Measure the curve over all points; the result at eps itself is taken from the ladder."""
    left = ladder.get_survivors(torch.arange(len(judge.points))).values()
    eps = judge.threat.eps
    known = {eps: torch.stack([*left]).all(0)} if len(left) == 2 else {}
    return measure_curve(judge, clean.correct, [factor * eps for factor in FINE_GRID], seed, known)


def _measure_margins(few: Judge, stepped: Judge, seed: int) -> Margins:
    """Measure the margins of some points, and the lengths of five steps from others."""
    margins = halve_until_fits(lambda size: _measure_some(few, seed, size), few.batch_size)
    five_steps = halve_until_fits(
        lambda size: measure_five_steps(stepped.net, stepped.points.eval_batches(size)),
        stepped.batch_size,
    )
    return replace(margins, five_steps=five_steps)


def _measure_some(judge: Judge, seed: int, batch_size: int) -> Margins:
    """Measure margins at the points and at their PGD-20 images, correct or not."""
    attack = make_pgd(judge.net, judge.threat, 20, seed)
    adversarial = torch.cat([attack(batch)[0] for batch in judge.points.eval_batches(batch_size)])
    return measure_margins(
        judge.net, judge.points.eval_batches(batch_size), judge.threat.norm, adversarial
    )
