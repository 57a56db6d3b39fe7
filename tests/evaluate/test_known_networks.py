"""Networks of others: we find their documented robustness, and break what is not robust."""

from __future__ import annotations

import pyautoattack
import pytest
import torch
from benchmarks.known_networks import (
    DOCUMENTED,
    cifar10,
    known,
    mnist,
    not_robust,
    under_autoattack,
    under_pgd,
)

from abatis.evaluate.pgd import cross_entropy, margin
from tests.reference import reference_dir

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        reference_dir() is None, reason="networks and images are not here; set ABATIS_REFERENCE"
    ),
]


def deviation(accuracy, n):
    """Standard deviation of an accuracy that n random points show."""
    return (accuracy * (1 - accuracy) / n) ** 0.5


@pytest.mark.parametrize(
    ("name", "clean", "robust"), [("resnet2b", 703, 570), ("resnet4b", 771, 618)]
)
def test_pgd_on_robust_cifar10_networks(name, clean, robust):
    """The first 1,000 test images.

    As many are right as when they were first judged; under attack they may differ by three.
    """
    right, left = under_pgd(
        known(name), cifar10(1000), "Linf:2/255", cross_entropy, steps=20, restarts=1
    )
    assert right == clean
    assert abs(left - robust) <= 3


@pytest.mark.parametrize("name", ["resnet2b", "resnet4b"])
def test_margin_pgd_finds_the_documented_robustness(name):
    """The documented numbers are of all 10,000 test images, these of the first 1,000.

    They are at most one standard deviation apart.
    """
    _, left = under_pgd(known(name), cifar10(1000), "Linf:2/255", margin, steps=40, restarts=4)
    assert abs(left / 1000 - DOCUMENTED[name]) <= deviation(DOCUMENTED[name], 1000)


def test_autoattack_finds_the_documented_robustness():
    """On few images, as it is slow; benchmarks/results/known-networks.json holds 300."""
    n = 24
    clean, found = under_autoattack(known("trades_mnist"), mnist(n), "Linf:0.3")
    assert clean >= n - 1  # documented: 99.48 %
    assert abs(found.verdicts[-1].accuracy - DOCUMENTED["trades_mnist"]) <= 3 * deviation(
        DOCUMENTED["trades_mnist"], n
    )


@pytest.mark.long
def test_autoattack_leaves_what_one_call_of_the_package_leaves():
    """On CIFAR-10, point by point; ours runs the network folded, and drops fooled points."""
    net, points = known("resnet2b"), cifar10(16)
    batch = next(points.eval_batches(16))
    foreign = pyautoattack.AutoAttack(net, norm="Linf", eps=2 / 255, seed=0)
    foreign.verbose = False
    _, predicted = foreign.run_standard_evaluation(batch.x, batch.y, batch_size=16)
    _, found = under_autoattack(net, points, "Linf:2/255")
    assert torch.equal(found.verdicts[-1].robust, predicted == batch.y)
    assert 0 < found.verdicts[-1].accuracy < 1


def test_a_network_that_is_not_robust_is_broken_everywhere():
    """The example that pyautoattack ships.

    93.7 % of the first 1,000 images are right, none of 64 under attack.
    """
    clean, left = under_pgd(
        not_robust(), cifar10(64), "Linf:8/255", cross_entropy, steps=20, restarts=1
    )
    assert clean == 59
    assert left == 0
