"""The two single-step attacks by hand, from the draws of the run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.train.test_step import make_step, plain_network, weights

from abatis import Ball, Net, PluginConflict, Randomness, Threat, UsageError
from abatis.testing import THREAT, plan_of, tiny_batch
from abatis_fast import FastConfig


def attacked(net, batch, threat="Linf:8/255", **options):
    plan = plan_of("fast", net=net, num_classes=10, threat=threat, options=options)
    with net.attack_mode():
        return plan.attacker(net, batch).x


def one_step(net, batch, noise, alpha):
    """Clipped uniform noise of noise * eps, then alpha * eps along the sign; not projected."""
    uniform = Randomness(0).uniform("fast/start", batch.x)
    start = (batch.x + (2 * uniform - 1) * noise * THREAT.eps).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(start), batch.y, reduction="sum"), start)
    return start.detach() + alpha * THREAT.eps * gradient.sign()


def test_fgsm_rs_by_hand():
    """Noise of eps, a step of 1.25 eps, projected onto ball and box."""
    batch, net = tiny_batch(8, 10), Net(plain_network())
    point = one_step(net, batch, 1, 1.25)
    expected = torch.min(torch.max(point, batch.x - THREAT.eps), batch.x + THREAT.eps).clamp(0, 1)
    assert torch.allclose(attacked(net, batch), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "noise", "alpha"),
    [({}, 2, 1), ({"noise": 3, "alpha": 0.5}, 3, 0.5), ({"noise": 0}, 0, 1)],
)
def test_n_fgsm_by_hand(options, noise, alpha):
    """Noise of 2 eps and a step of eps, clipped to [0, 1] and nothing else. Without noise: FGSM."""
    batch, net = tiny_batch(8, 10), Net(plain_network())
    found = attacked(net, batch, variant="n-fgsm", **options)
    assert torch.allclose(found, one_step(net, batch, noise, alpha).clamp(0, 1), rtol=0, atol=1e-15)
    assert (Ball(batch.x, THREAT).distance(found) > 1.01 * THREAT.eps).all() == bool(noise)


def test_the_step_takes_n_fgsm_beyond_the_ball_as_far_as_it_says():
    module = plain_network()
    before = weights(module)
    step = make_step(module, "fast", options={"variant": "n-fgsm"})
    assert step.plan.attacker.reach == 3
    assert step(tiny_batch(8, 10), 0, 0, 0.0).total.isfinite()
    assert not torch.equal(weights(module), before)
    assert make_step(module, "fast").plan.attacker.reach == 1


@pytest.mark.parametrize(
    ("options", "alpha"),
    [({}, 1.25), ({"variant": "n-fgsm"}, 1), ({"variant": "n-fgsm", "alpha": 1.5}, 1.5)],
)
def test_each_variant_has_its_own_step(options, alpha):
    assert FastConfig(**options).alpha == alpha


@pytest.mark.parametrize(("variant", "reach"), [("fgsm-rs", 1), ("n-fgsm", 3)])
@pytest.mark.parametrize("threat", ["Linf:8/255", "L2:0.5"])
def test_raises_the_loss_within_its_reach_in_both_norms(variant, reach, threat):
    batch, net, parsed = tiny_batch(8, 10), Net(plain_network()), Threat.parse(threat)
    found = attacked(net, batch, threat, variant=variant)
    assert F.cross_entropy(net(found), batch.y) > F.cross_entropy(net(batch.x), batch.y)
    assert Ball(batch.x, Threat(parsed.norm, reach * parsed.eps, "")).contains(found).all()


def test_one_forward_and_no_count_of_steps():
    """A count of one step would look like a measure of how long a sample resists."""
    batch, net, calls = tiny_batch(4, 10), Net(plain_network()), []

    def forward(x):
        calls.append(len(x))
        return net(x)

    assert not plan_of("fast", net=net, num_classes=10).attacker(forward, batch).info
    assert calls == [4]
    with pytest.raises(UsageError, match="does not report"):
        make_step(plain_network(), "fast", "gairat")(batch, 0, 0, 0.0)


def test_two_attackers_conflict():
    with pytest.raises(PluginConflict, match="provide the attacker: fast, trades") as caught:
        plan_of("fast", "trades", net=Net(plain_network()), num_classes=10)
    assert "--use attacker=fast" in str(caught.value)


@pytest.mark.parametrize("variant", ["fgsm-rs", "n-fgsm"])
def test_micro_batches_make_the_update_of_the_whole_batch(variant):
    found = []
    for accumulate in (1, 3):
        module = plain_network()
        step = make_step(
            module, "fast", options={"variant": variant, "guard": 0}, accumulate=accumulate
        )
        for number in range(2):
            step(tiny_batch(8, 10), number, 0, 0.0)
        found.append(weights(module))
    assert torch.allclose(*found, rtol=0, atol=1e-12)
