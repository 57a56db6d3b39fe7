"""What follows an examination: the stranger is asked, and doubts call for more attacks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from abatis.evaluate.curves import STEPS
from abatis.evaluate.examination import Examination, get_diagnosed_threat, search_points
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Attack, Judge, Verdicts, compute_share
from abatis.evaluate.masking.attacks import MORE_STEPS, AttackTally
from abatis.evaluate.masking.diagnosis import CLAIM
from abatis.evaluate.masking.doubts import SEARCHES
from abatis.evaluate.masking.gradients import run_gradient_tests
from abatis.evaluate.masking.probes import DRAWS, make_random_noise
from abatis.evaluate.pgd import cross_entropy, draw_start, make_pgd, margin
from abatis.evaluate.request import EvaluationRequest
from abatis.evaluate.stranger.examination import (
    MEMORY,
    ORDER,
    SIZE,
    StrangerReport,
    examine_stranger,
    watch_stranger,
)
from abatis.evaluate.stranger.process import FreshNetwork, Stranger, StrangerFailed
from abatis.system import distributed

STRANGER = "a copy in a new process"


def ask_stranger(
    module: nn.Module, request: EvaluationRequest, found: Examination, stranger: Stranger | str
) -> None:
    """Ask the stranger about the images that the network withstood, and add what it says.

    Where the answers depend on what they should not, the network is attacked again in the way in
    which it is honest: a copy that was never asked before, or one image at a time.
    """
    report = None
    if distributed.rank() == 0:
        report = _examine(request, found, stranger)
    report = distributed.first_says(report)
    assert report is not None
    found.diagnosis = found.diagnosis.add([report.outcome])
    if report.broken.any():
        found.robust &= ~report.broken
        _record(
            found, STRANGER, found.robust.clone(), {"loss": "images that the network withstood"}
        )
    if request.threat.norm == "L1" or distributed.several():
        return  # diagnostics need PGD, and the stranger belongs to one process
    for name, other in _list_honest_ways(module, stranger, report):
        try:
            _attack_again(other, request, found, name)
        except StrangerFailed as error:
            found.ladder.findings.append(f"{name}: not attacked to the end: {error}")


def _examine(
    request: EvaluationRequest, found: Examination, stranger: Stranger | str
) -> StrangerReport:
    if found.draws is None and found.withstood.collect(found.robust) is not None:
        return examine_stranger(
            stranger, found.withstood, found.robust, request.batch_size, request.seed
        )
    few = request.points.subset(found.chosen)
    batch = next(iter(few.eval_batches(request.batch_size)))
    return watch_stranger(
        stranger,
        draw_start(batch, get_diagnosed_threat(request.threat), request.seed),
        found.robust,
    )


class OneByOne(nn.Module):
    """A network that is asked about one image at a time."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        return torch.cat([self.module(image) for image in x.split(1)])


def _list_honest_ways(
    module: nn.Module, stranger: Stranger | str, report: StrangerReport
) -> Iterator[tuple[str, nn.Module]]:
    """The network as it is honest, by what to call it."""
    if {ORDER, SIZE} & {*report.depends}:
        yield "alone", OneByOne(module)
    if MEMORY in report.depends and isinstance(stranger, Stranger) and stranger.forgets:
        yield "a fresh copy", FreshNetwork(stranger)


def _attack_again(
    module: nn.Module, request: EvaluationRequest, found: Examination, name: str
) -> None:
    """Attack the points that stand; what falls counts.

    Searches cost more questions than all else together, and run only where enough points stand for
    a claim and cheap tests say that the gradients mislead.
    """
    with isolate(module) as net:
        judge = Judge(net, request.points, request.threat, request.batch_size, request.progress)
        for title, attack in _list_attacks(judge, request.seed):
            verdict = judge.run_attack(f"{title}, {name}", attack, found.robust)
            found.robust &= verdict.robust
            _record(found, verdict.name, verdict.robust, {"loss": title}, verdict)
        claims = compute_share(found.robust) > CLAIM and not request.cheap
        if claims and _misleads(judge, found, request.seed, name):
            search_points(judge, found, request, found.robust, SEARCHES, name)


def _misleads(judge: Judge, found: Examination, seed: int, name: str) -> bool:
    """Are gradients of no use, or does noise break points that they left? These points count."""
    tally = AttackTally(judge, found.robust, seed)
    noise = [make_random_noise(judge.net, judge.threat, seed)]
    title = f"{2 * DRAWS} random draws"
    tests = [
        *run_gradient_tests(judge, seed),
        tally.grade_exclusive("D12", title, noise, found.robust),
    ]
    if (found.robust & ~tally.robust).any():
        found.robust &= tally.robust
        _record(found, f"{title}, {name}", found.robust.clone(), {"loss": "none"})
    return any(test.status in ("warn", "fail") for test in tests)


def _list_attacks(judge: Judge, seed: int) -> Iterator[tuple[str, Attack]]:
    net, threat = judge.net, judge.threat
    yield f"PGD-{STEPS}", make_pgd(net, threat, STEPS, seed, cross_entropy)
    yield f"margin-PGD-{STEPS}", make_pgd(net, threat, STEPS, seed, margin)
    yield f"margin-PGD-{MORE_STEPS}", make_pgd(net, threat, MORE_STEPS, seed, margin, range(1, 2))


def _record(
    found: Examination,
    name: str,
    robust: Tensor,
    settings: dict[str, object],
    verdict: Verdicts | None = None,
) -> None:
    facts = verdict.facts if verdict is not None else {"attacked": len(robust), "rejected": 0}
    found.ladder.verdicts[name] = Verdicts(name, robust, facts)
    found.ladder.settings[name] = settings
