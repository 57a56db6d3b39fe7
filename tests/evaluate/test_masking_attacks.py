"""The attacks of the diagnostics: what they reach and repeat, and that they stay in the ball."""

from __future__ import annotations

import pytest
import torch

from abatis.api.ball import Ball
from abatis.api.threat import Threat
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking import attacks, probes
from abatis.evaluate.pgd import judge_with_pgd, make_pgd
from tests.evaluate.planted import dim


@pytest.mark.parametrize("cheat", ["outside", "not a number", "label"])
def test_an_attack_that_leaves_the_ball_is_found_out(points, cheat):
    def attack(batch):
        if cheat == "label":
            batch.y.fill_(0)
        image = {"outside": batch.x - 0.1, "not a number": batch.x * torch.nan, "label": batch.x}[
            cheat
        ]
        return image, torch.ones(len(batch.y), dtype=torch.bool)

    net, data = dim(points)
    with isolate(net) as judged:
        tally = attacks.AttackTally(
            Judge(judged, data, Threat.parse("Linf:0.02"), 8), torch.ones(20, dtype=torch.bool), 0
        )
        assert (
            tally.run(
                "fair", make_pgd(judged, Threat.parse("Linf:0.02"), 5, 0), tally.correct
            ).facts["attacked"]
            == 20
        )
        assert tally.grade_budget().status == "pass"
        tally.run("cheat", attack, tally.correct)
        tally.run(
            "cheat", make_pgd(judged, Threat.parse("Linf:0.02"), 5, 0), tally.correct
        )  # hides nothing
    test = tally.grade_budget()
    assert (test.status, test.count, test.of) == ("fail", 20, 60)


@pytest.mark.parametrize("threat", [Threat.parse("Linf:0.08"), Threat.parse("L2:0.4")])
def test_the_traced_path_is_that_of_pgd(digits, network, points, threat):
    data = points(digits.x[1400:1460], digits.y[1400:1460])
    batch = next(data.eval_batches(60))
    assert torch.equal(
        probes.draw_start(batch, threat, 3), make_pgd(network, threat, 0, 3)(batch)[0]
    )
    clean, robust = judge_with_pgd(network, data, threat, steps=20, seed=3, batch_size=60)
    trace = {}
    with isolate(network) as judged:
        verdicts = Judge(judged, data, threat, 25).run_attack(
            "t", probes.make_traced_pgd(judged, threat, 20, 3, trace), clean
        )
    assert torch.equal(verdicts.robust, robust)
    assert len(trace) == int(clean.sum())
    assert 0 < int(robust.sum()) < int(clean.sum())


@pytest.mark.parametrize("threat", [Threat.parse("Linf:0.3"), Threat.parse("L2:0.3")])
def test_noise_fills_the_ball_to_its_edge(points, threat):
    """Every draw lies in the ball; half of them at its edge, where the box lets them."""
    _, data = dim(points, n=4)
    batch = next(data.eval_batches(4))
    ball, seen = Ball(batch.x, threat), []

    def forward(x):
        seen.append(x)
        return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)

    probes.make_random_noise(forward, threat, 0)(batch)
    assert len(seen) == 2 * probes.DRAWS
    assert all(ball.contains(x).all() for x in seen)
    corners = torch.stack([ball.distance(x) for x in seen[1::2]])
    assert torch.allclose(corners, torch.tensor(threat.eps))
    assert len(torch.stack(seen).unique(dim=0)) == len(seen)
