"""PGD against cases whose answer is known by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abatis.api.randomness import per_sample
from abatis.api.threat import Threat
from abatis.errors import NotFiniteError, OutOfMemoryError, UsageError
from abatis.evaluate import judge_clean, judge_with_pgd, margin
from abatis.evaluate.pgd import cross_entropy

LINF = Threat.parse("Linf:0.1")


class Half(nn.Module):
    """Two classes: logits (0, w.x + b)."""

    def __init__(self, weight: torch.Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x):
        z = x.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(z), z], 1)


class Window(nn.Module):
    """One pixel t. The slope of the loss points up everywhere.

    Class 0 is not on top in [0.6, 0.8) alone, where the loss is lower than below 0.6.
    """

    def forward(self, x):
        t = x.flatten(1)[:, 0]
        inside = (t >= 0.6) & (t < 0.8)
        first = torch.where(inside, 0.64, 0.6) - 0.25 * t
        share = torch.where(inside, 1.0, 0.5)
        rest = 1 - first
        return torch.stack([first, rest * share, (rest * (1 - share)).clamp(min=1e-6)], 1).log()


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
def test_linear_network_is_judged_exactly(points, norm, dual):
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(12, generator=source) / 4
    x = 0.3 + 0.4 * torch.rand(200, 3, 2, 2, generator=source)
    net = Half(weight, -0.5 * float(weight.sum()))
    threat = Threat.parse(f"{norm}:0.1")  # the ball stays inside the box
    z = net(x)[:, 1].detach()
    y = torch.where(
        torch.arange(200) % 5 > 0, (z > 0).long(), (z < 0).long()
    )  # every fifth label is wrong
    margin = torch.where(y == 1, z, -z)
    reach = threat.eps * weight.norm(p=dual)
    clear = (margin - reach).abs() > 0.02 * reach
    assert clear.sum() > 150
    clean, robust = judge_with_pgd(net, points(x, y), threat, steps=20, seed=1, batch_size=64)
    assert torch.equal(clean, margin > 0)
    assert torch.equal(robust[clear], (margin > reach)[clear])
    assert 0 < robust.sum() < clean.sum()


def test_best_on_the_path_counts_not_the_last(points):
    n, threat = 24, Threat.parse("Linf:0.6")
    data = points(
        torch.full((n, 1, 1, 1), 0.3), torch.zeros(n, dtype=torch.int64), torch.arange(100, 100 + n)
    )
    start = (
        0.3 + (2 * per_sample("uniform", 3, "evaluate/uniform", data.index, data.x) - 1) * 0.6
    ).clamp(0, 1)
    past = (
        start.flatten() >= 0.8
    )  # steps of 0.15 up from below 0.6 cannot jump over the window of 0.2
    assert 0 < past.sum() < n
    assert (Window()(torch.full((1, 1, 1, 1), 0.9)).argmax(1) == 0).all()  # where every path ends
    clean, robust = judge_with_pgd(Window(), data, threat, steps=20, seed=3, batch_size=n)
    assert clean.all()
    assert torch.equal(robust, past)


def test_start_is_part_of_the_path(points):
    data = points(torch.full((60, 1, 1, 1), 0.3), torch.zeros(60, dtype=torch.int64))
    start = (
        0.3 + (2 * per_sample("uniform", 3, "evaluate/uniform", data.index, data.x) - 1) * 0.6
    ).clamp(0, 1)
    inside = ((start >= 0.6) & (start < 0.8)).flatten()
    _, robust = judge_with_pgd(
        Window(), data, Threat.parse("Linf:0.6"), steps=0, seed=3, batch_size=24
    )
    assert inside.any()
    assert torch.equal(robust, ~inside)


@pytest.mark.parametrize("norm", ["Linf:0.08", "L2:0.4"])
def test_verdicts_do_not_depend_on_the_batch(digits, network, points, norm):
    data = points(digits.x[1400:1500], digits.y[1400:1500], digits.index[1400:1500])
    threat = Threat.parse(norm)
    whole = judge_with_pgd(network, data, threat, steps=10, seed=0, batch_size=100)
    assert 10 < whole[1].sum() < 90
    for batch_size in (1, 7):
        parts = judge_with_pgd(network, data, threat, steps=10, seed=0, batch_size=batch_size)
        assert torch.equal(whole[0], parts[0])
        assert torch.equal(whole[1], parts[1])
    reverse = points(data.x.flip(0), data.y.flip(0), data.index.flip(0))
    assert torch.equal(
        whole[1],
        judge_with_pgd(network, reverse, threat, steps=10, seed=0, batch_size=9)[1].flip(0),
    )


def test_only_correct_points_are_attacked(digits, network, points):
    asked = []
    wrong = points(digits.x[1400:1410], (digits.y[1400:1410] + 1) % 10)
    clean, robust = judge_with_pgd(
        network,
        wrong,
        LINF,
        steps=20,
        seed=0,
        batch_size=4,
        progress=lambda *report: asked.append(report),
    )
    assert not clean.any()
    assert not robust.any()
    assert asked == [("clean", 4, 10), ("clean", 8, 10), ("clean", 10, 10), ("PGD-20", 0, 0)]


def test_not_finite_logits_stop_the_evaluation(points):
    class Nan(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)).log(), 1 - x.mean((1, 2, 3))], 1)

    data = points(
        torch.tensor([0.5, 0.0, 0.7]).view(3, 1, 1, 1),
        torch.zeros(3, dtype=torch.int64),
        torch.arange(40, 43),
    )
    with pytest.raises(NotFiniteError, match="1 clean images") as caught:
        judge_clean(Nan(), data.eval_batches(2))
    assert caught.value.where == "evaluation, images 41"


def test_not_finite_logits_under_attack_are_not_right(points):
    class Nan(nn.Module):
        def forward(self, x):
            t = x.flatten(1)
            return torch.cat([1 - t, t - 1], 1) + torch.where(
                t > 0.55, torch.nan, 0.0
            )  # argmax calls it class 0

    data = points(torch.full((4, 1, 1, 1), 0.5), torch.zeros(4, dtype=torch.int64))
    clean, robust = judge_with_pgd(Nan(), data, LINF, steps=20, seed=0, batch_size=4)
    assert clean.all()
    assert not robust.any()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), "shape (3, 1)"),
        (nn.Identity(), "shape (3, 1, 2, 2)"),
    ],
)
def test_outputs_must_be_one_logit_a_class(points, net, message):
    with pytest.raises(UsageError) as caught:
        judge_with_pgd(
            net,
            points(torch.rand(3, 1, 2, 2), torch.zeros(3).long()),
            LINF,
            steps=1,
            seed=0,
            batch_size=3,
        )
    assert message in str(caught.value)


def test_images_must_be_in_the_box(points):
    with pytest.raises(UsageError, match=r"not \[0, 1\]"):
        judge_clean(
            Half(torch.ones(4), 0.0),
            points(torch.full((2, 1, 2, 2), 1.5), torch.ones(2).long()).eval_batches(2),
        )


def test_empty_split_is_an_error(points):
    with pytest.raises(UsageError, match="no images"):
        judge_clean(
            Half(torch.ones(4), 0.0),
            points(torch.rand(0, 1, 2, 2), torch.ones(0).long()).eval_batches(2),
        )


def test_network_without_gradient_is_an_error(points):
    class Cut(Half):
        def forward(self, x):
            return super().forward(x.detach())

    data = points(torch.rand(3, 1, 2, 2), torch.ones(3, dtype=torch.int64))
    with pytest.raises(UsageError, match="no gradient"):
        judge_with_pgd(Cut(torch.ones(4), 0.0), data, LINF, steps=1, seed=0, batch_size=3)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_batch_is_halved_until_it_fits(digits, network, points, error):
    class Small(nn.Module):
        def __init__(self, room: int) -> None:
            super().__init__()
            self.net, self.room = network, room

        def forward(self, x):
            if len(x) > self.room:
                raise error
            return self.net(x)

    data = points(digits.x[1400:1430], digits.y[1400:1430])
    wide = judge_with_pgd(network, data, LINF, steps=5, seed=0, batch_size=16)
    narrow = judge_with_pgd(Small(5), data, LINF, steps=5, seed=0, batch_size=16)
    assert torch.equal(wide[1], narrow[1])
    with pytest.raises(OutOfMemoryError):
        judge_with_pgd(Small(0), data, LINF, steps=5, seed=0, batch_size=16)


def test_the_margin_objective_is_not_fooled_by_the_scale_of_the_logits(digits, network, points):
    """With logits times 10,000 the cross-entropy's gradient vanishes and its attack stalls.

    The margin's does not.
    """
    some = points(digits.x[:100], digits.y[:100])
    scaled = nn.Sequential(network, Times(1e4))
    arguments = {"threat": Threat.parse("Linf:0.2"), "steps": 10, "seed": 0, "batch_size": 100}
    honest, by_entropy, by_margin = (
        int(judge_with_pgd(net, some, objective=objective, **arguments)[1].sum())
        for net, objective in ((network, margin), (scaled, cross_entropy), (scaled, margin))
    )
    assert by_margin == honest < by_entropy


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x
