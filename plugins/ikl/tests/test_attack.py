"""The attack of IKL: its radius grows with the epochs, and AWP's objective holds every term."""

from __future__ import annotations

import pytest
import torch

from abatis import Batch, Now
from abatis.testing import THREAT, Bench, replay, smooth_network, tiny_batch


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.1), (4, 0.5), (9, 1.0)])
@pytest.mark.parametrize("grow", [True, False])
def test_the_radius_grows_to_that_of_the_threat(epoch, share, grow):
    from abatis import Net

    bench, batch = Bench("ikl"), tiny_batch(4, 10)
    net = Net(smooth_network(10))
    plan = bench.plan(net, {"grow": grow})  # 10 epochs
    plan.run.clock.now = Now(epoch * 10, epoch, epoch / 10)
    batch = Batch(0.3 + 0.4 * batch.x, batch.y, batch.index)  # away from the edges of the box
    with net.attack_mode():
        x_adv = plan.attacker(net, batch).x
    largest = (x_adv - batch.x).abs().amax().item()
    assert largest == pytest.approx(THREAT.eps * (share if grow else 1), rel=1e-6)


def test_it_goes_with_weight_perturbation():
    """The perturbed forward gives other class means and another update, both finite."""
    found = {}
    for names in (("ikl",), ("ikl", "awp")):
        options = {"awp": {"gamma": 0.01}} if "awp" in names else {}
        module = smooth_network(10)
        steps = replay(names, module, [tiny_batch(8, 10)] * 2, options=options)
        found[names] = torch.cat([part.flatten() for part in steps[-1].parameters.values()])
    one, other = found.values()
    assert one.isfinite().all()
    assert other.isfinite().all()
    assert not torch.allclose(one, other)
