"""Our search of Square makes the package's images, whatever is asked at once."""

from __future__ import annotations

import pytest
import torch
from pyautoattack.square import SquareAttack

from abatis.evaluate.fewer_queries import make_queries
from abatis.evaluate.isolation import isolate
from abatis.evaluate.square import (
    BATCH,
    WINDOWS,
    Draws,
    count_windows,
    measure_overhead,
    replace_search,
)
from tests.evaluate.test_fewer_queries import Counted


@pytest.mark.parametrize("windows", [1, 3, 8, None])
@pytest.mark.parametrize("eps", [0.05, 0.15])
def test_the_same_images_with_fewer_queries(digits, network, windows, eps):
    """A number of queries that is no multiple of the windows; some points are fooled, some not."""
    x, y = digits.x[1400:1424], digits.y[1400:1424]
    with isolate(network) as net:
        whole, spared = Counted(net), Counted(net)
        attacks = [
            SquareAttack(forward, n_queries=250, eps=eps, seed=3) for forward in (whole, spared)
        ]
        replace_search(attacks[1], make_queries(spared), windows)
        images = [attack.perturb(x, y) for attack in attacks]
        asked = spared.rows
        again = attacks[1].perturb(x, y)
        fooled = net(images[0]).argmax(1) != y
    assert torch.equal(*images)
    assert torch.equal(again, images[1])
    assert 0 < int(fooled.sum()) < 24
    if windows == 1:
        assert asked < whole.rows


def test_one_row_and_no_row(digits, network):
    """A single point, and one that the stripes of the start fool already."""
    x, y = digits.x[1400:1401], digits.y[1400:1401]
    with isolate(network) as net:
        for eps, labels in ((0.02, y), (0.5, y), (0.02, (y + 1) % 10)):
            attacks = [SquareAttack(net, n_queries=30, eps=eps, seed=3) for _ in range(2)]
            replace_search(attacks[1], make_queries(net), 8)
            assert torch.equal(*[attack.perturb(x, labels) for attack in attacks])


def test_other_norms_are_left_alone(network):
    square = SquareAttack(network, norm="L2", eps=1.0)
    replace_search(square, make_queries(network))
    assert "attack_single_run" not in vars(square)


def test_windows_are_drawn_in_order_and_kept_while_they_are_needed():
    square = SquareAttack(None, n_queries=5, eps=0.1)
    square.init_hyperparam(torch.zeros(1, 1, 8, 8))
    draws = Draws(square, torch.zeros(1, 1, 8, 8))
    numbers = [
        [window.number for window in draws.list_windows(first, count)]
        for first, count in ((1, 3), (2, 3), (2, 1), (4, 8))
    ]
    assert numbers == [[1, 2, 3], [2, 3, 4], [2], [4, 5]]


@pytest.mark.parametrize(
    ("overhead", "rows", "windows"), [(10, 20, 3), (10, 4, 8), (2, 20, 1), (10, 60, 1), (90, 90, 1)]
)
def test_windows_at_once_fill_a_small_batch(overhead, rows, windows):
    """Several only where the fixed cost is 0.2 of the rows': at most 8, and 64 images."""
    assert (WINDOWS, BATCH) == (8, 64)
    assert count_windows(overhead, rows) == windows


def test_the_overhead_of_a_query_is_in_images(monkeypatch):
    """A clock that moves by 12 units a query and 4 an image: 3 images."""
    now = [0.0]

    def ask(x, y):
        now[0] += 12 + 4 * len(x)
        return torch.zeros(len(x))

    monkeypatch.setattr("abatis.evaluate.square.time.thread_time", lambda: now[0])
    assert measure_overhead(ask, torch.zeros(2, 1, 4, 4), torch.zeros(2).long()) == 3
