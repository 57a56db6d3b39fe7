"""Searches that trust no gradient: a substitute, searches from its images, finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from abatis.api.batch import Batch
from abatis.api.threat import Threat
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking import extraction
from abatis.evaluate.masking.differences import (
    STEADY,
    Climb,
    climb_differences,
    estimate_slope,
    make_difference_climb,
)
from abatis.evaluate.masking.extraction import extract, search_by_extraction
from abatis.evaluate.masking.probes import make_random_noise
from abatis.evaluate.masking.random_search import (
    Draws,
    draw_square,
    make_label_search,
    make_square_search,
    normalize,
)
from abatis.evaluate.masking.surrogate import build_surrogate, shrink
from abatis.evaluate.pgd import cross_entropy, make_pgd, margin
from tests.evaluate.planted import Before, dim

THREAT = Threat.parse("Linf:0.1")
FEW = 29  # questions a point


@pytest.fixture
def short(monkeypatch):
    """Fewer rounds and questions, which take most of the time; the slow tests run all."""
    settings = {"ROUNDS": 2, "EPOCHS": 15, "LABEL_QUERIES": (100,), "SQUARE_QUERIES": 100}
    for name, value in settings.items():
        monkeypatch.setattr(extraction, name, value)


class Decoy(nn.Module):
    """The label of a network alone, over small waves whose slope leads nowhere."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        label = self.net(x.detach()).argmax(1)
        waves = torch.linspace(-1, 1, 640).view(64, 10).sin()
        return F.one_hot(label, 10) + 0.1 * (x.flatten(1) @ waves).sin()


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Label(nn.Module):
    """One-hot answers: neither slopes nor margins."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        logits = self.net(x)
        return F.one_hot(logits.argmax(1), logits.shape[1]).float()


class Spoiled(nn.Module):
    """Class 0, and NaN where the first pixel is above 0.5."""

    def forward(self, x):
        t = x.flatten(1)[:, :1]
        return torch.cat([torch.ones_like(t), 0 * t], 1) / (t <= 0.5)


def attacked(net, split, search, threat=THREAT, batch_size=64, **options):
    """The points that PGD-20 on both losses leaves, and those that the search leaves of them."""
    with isolate(net) as judged:
        judge = Judge(judged, split, threat, batch_size)
        clean = judge.classify_clean()
        standing = clean.correct
        for objective in (cross_entropy, margin):
            attack = make_pgd(judged, threat, 20, 0, objective)
            standing = judge.run_attack("PGD-20", attack, standing).robust
        return standing, search(judge, clean, standing, seed=0, **options).robust


def count(*flags):
    return tuple(int(one.sum()) for one in flags)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [("short", 0.6), pytest.param("", 0.15, marks=pytest.mark.slow)],
    ids=["short", "all questions"],
)
def test_a_decoy_falls_to_a_substitute_and_an_honest_network_stays(
    request, network, digits, name, hidden
):
    """``hidden``: the share of the points behind the decoy that may still stand, at most."""
    options = {"queries": FEW} if name and request.getfixturevalue(name) is None else {}
    split = digits.subset(torch.arange(1400, 1440))
    honest, after = attacked(network, split, search_by_extraction, **options)
    assert 5 < int(honest.sum()) < 25
    assert torch.equal(honest, after)
    standing, left = attacked(Decoy(network), split, search_by_extraction, **options)
    behind = standing & ~honest  # PGD on the network behind the decoy breaks all of these
    assert int(standing.sum()) > 30
    assert not (honest & ~left).any()
    assert int((left & behind).sum()) <= hidden * int(behind.sum())


def test_finite_differences_climb_where_the_gradient_points_down(network, digits):
    split = digits.subset(torch.arange(1400, 1440))
    honest, after = attacked(network, split, climb_differences)
    assert torch.equal(honest, after)
    standing, left = attacked(Before(network, Backwards.apply), split, climb_differences)
    assert int(standing.sum()) > 30
    assert not (honest & ~left).any()
    assert int((left & ~honest).sum()) <= 4


def test_labels_alone_find_what_can_be_reached_and_nothing_else(points):
    """The margins are 0.01 to 0.2, and Linf:0.02 changes them by 5 * 0.02 = 0.1 at most."""
    net, split = dim(points)
    starts = dict(zip(range(30, 50), split.x.clone(), strict=True))
    attack = make_label_search(Label(net), Threat.parse("Linf:0.02"), 1, 200, starts)
    found, fooled = attack(next(split.eval_batches(20)))
    assert fooled[:9].all()
    assert not fooled[10:].any()
    assert ((found - split.x).abs() <= 0.02 + 1e-6).all()


SHORT = Climb(100, 12, 0.8)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["square", "labels", "differences", "noise"])
def test_no_draw_depends_on_the_batch(name, norm):
    """A search finds the same images for seven points as for three and four of them."""
    threat = Threat(norm, 0.1, f"{norm}:0.1")
    source = torch.Generator().manual_seed(0)
    x = torch.rand(7, 1, 8, 8, generator=source, dtype=torch.float64)
    batch = Batch(x, torch.zeros(7, dtype=torch.int64), torch.tensor([9, 4, 30, 2, 11, 8, 5]))
    starts = dict(zip(batch.index.tolist(), (x + 0.01).clamp(max=1), strict=True))

    def forward(images):
        values = images.flatten(1).cos().sum(1) - 54  # 64 cosines, 0.84 each on average
        return torch.stack([0 * values, values], 1)

    attack = {
        "square": lambda: make_square_search(forward, threat, 1, 30, starts),
        "labels": lambda: make_label_search(forward, threat, 1, 30, starts),
        "differences": lambda: make_difference_climb(forward, threat, 1, SHORT),
        "noise": lambda: make_random_noise(forward, threat, 1),
    }[name]()
    whole, fooled = attack(batch)
    parts = [attack(batch.rows(rows)) for rows in (slice(0, 3), slice(3, 7))]
    assert torch.equal(fooled, torch.cat([part[1] for part in parts]))
    torch.testing.assert_close(whole, torch.cat([part[0] for part in parts]), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("short")
def test_all_draws_come_from_the_seed(network, digits):
    split = digits.subset(torch.arange(1400, 1412))

    def images(seed):
        with isolate(network) as net:
            judge = Judge(net, split, THREAT, 5)
            clean = judge.classify_clean()
            found = extract(judge, clean, clean.correct, seed=seed, queries=17).images
        return torch.stack([found[place] for place in sorted(found)])

    state = torch.get_rng_state()
    first = images(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, images(0))
    assert not torch.equal(first, images(1))


@pytest.mark.usefixtures("short")
def test_logits_that_are_not_finite_break_a_point(points):
    """From 0.1 no image with NaN can be reached."""
    x = torch.tensor([0.1, 0.45, 0.48]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    split = points(x.clone(), torch.zeros(3, dtype=torch.int64))
    with isolate(Spoiled()) as net:
        judge = Judge(net, split, THREAT, 2)
        clean = judge.classify_clean()
        left = search_by_extraction(judge, clean, clean.correct, seed=0).robust
    assert left.tolist() == [True, False, False]


def test_a_slope_by_hand():
    """Two classes, logits (0, 3 t): the margin of class 0 is 3 t, and a probe is 0.05 long."""

    def forward(x):
        t = x.flatten(1)
        return torch.cat([0 * t, 3 * t], 1)

    half, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    slope = estimate_slope(forward, Batch(half, y, torch.tensor([3])), THREAT, 0, 0, STEADY)
    assert float(slope) == pytest.approx(3 * (0.55 - 0.45))


@pytest.mark.parametrize("to_the_end", [True, False])
def test_one_wrong_answer_of_many_draws_ends_no_climb(to_the_end):
    """Of every point half of the answers are wrong; the margin rises with every pixel."""
    draws = torch.Generator().manual_seed(0)

    def forward(x):
        noise = torch.randn(len(x), generator=draws)
        return torch.stack([0 * noise, (x - 0.5).flatten(1).sum(1) + noise], 1)

    x = torch.full((20, 1, 4, 4), 0.5)
    batch = Batch(x, torch.zeros(20, dtype=torch.int64), torch.arange(20))
    climb = Climb(800, 12, 0.9, to_the_end)
    found, _ = make_difference_climb(forward, THREAT, 0, climb)(batch)
    rise = (found - x).mean((1, 2, 3)) / THREAT.eps
    assert (float(rise.mean()) > 0.6) == to_the_end


def test_directions_by_hand():
    way = torch.tensor([3.0, -4.0]).view(1, 1, 1, 2)
    assert normalize(way, "Linf").flatten().tolist() == [1, -1]
    assert normalize(way, "L2").flatten().tolist() == pytest.approx([0.6, -0.8])


@pytest.mark.parametrize(("done", "places"), [(0, 36), (1, 1)])  # areas 32 and 1.28
def test_squares_shrink(done, places):
    square = draw_square(torch.zeros(2, 3, 8, 8), done, Draws(0, "p", torch.tensor([5, 2]), 1))
    assert square.abs().flatten(2).sum(2).tolist() == [[places] * 3] * 2
    one = square[0, 0]
    assert one[one != 0].unique().numel() == 1


def test_the_substitute_sees_large_images_averaged():
    x = torch.zeros(1, 1, 64, 64)
    x[..., 0, :2] = 1  # two of the first four pixels
    small = shrink(x)
    assert small.shape == (1, 1, 32, 32)
    assert float(small[0, 0, 0, 0]) == 0.5
    assert float(small.sum()) == 0.5


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 9), (1, 8, 8), (3, 32, 20), (1, 28, 28)])
def test_a_substitute_for_every_size_of_image(shape):
    net = build_surrogate(torch.Size(shape), 1001, seed=0)
    assert net(torch.zeros(2, *shape)).shape == (2, 1001)
    again = build_surrogate(torch.Size(shape), 1001, seed=0)
    pairs = zip(net.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.usefixtures("short")
def test_an_image_is_given_for_points_that_stand_too(points):
    """The best image, which lies in the ball and is not the clean one."""
    net, split = dim(points, 6)
    with isolate(Label(net)) as judged:
        judge = Judge(judged, split, Threat.parse("Linf:0.001"), 4)
        clean = judge.classify_clean()
        images = extract(judge, clean, clean.correct, seed=0, queries=17).images
    batch: Batch = next(split.eval_batches(6))
    moved = torch.stack([images[place] for place in batch.index.tolist()]) - batch.x
    assert (moved.abs().flatten(1).amax(1) > 0).all()
    assert (moved.abs() <= 0.001 + 1e-6).all()
