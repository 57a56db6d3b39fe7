"""The toys do what their papers, or their makers, do; and their true accuracies are recorded."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from abatis.nets.digest import weights_digest
from tests.evaluate.defences import cheats, detectors, gradients, losses, random_nets, transformed
from tests.evaluate.defences.find_truth import RECORD, find_truth
from tests.evaluate.defences.nets import Behind, make_cnn, read_images
from tests.evaluate.defences.table import BROKEN, HONEST_ONES, TOYS, get_toy

TRUTH = json.loads(RECORD.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A network that was never trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make_cnn()
        made(read_images()[0][:2])
    return made.requires_grad_(False)


@pytest.fixture
def x() -> torch.Tensor:
    return read_images()[2][:12]


def test_every_family_has_a_toy():
    assert len(BROKEN) >= 40
    assert len(HONEST_ONES) >= 12
    assert {entry.family for entry in BROKEN.values()} == {
        "no gradient",
        "zero or useless gradient",
        "saturation of loss or logits",
        "randomness",
        "detection and switching",
        "memory of questions",
        "dependence on the batch",
        "dependence on the point",
    }


@pytest.mark.parametrize("name", TOYS)
def test_the_truth_is_recorded_for_the_judged_points(name):
    found, entry = TRUTH[name], TOYS[name]
    assert found["points"] == entry.choose_points().tolist()
    assert len(found["right"]) == len(found["points"])
    assert 0 <= found["truth"] <= found["clean"] <= 1
    assert found["truth"] == pytest.approx(sum(found["right"]) / len(found["right"]), abs=1e-3)
    if found["confirmed"] is not None and not entry.unseen:
        alone, broken = found["confirmed"]
        assert alone == broken == found["right"].count(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["times_1e_4", "batch_position"])
def test_a_truth_is_found_again(name):
    found = find_truth(name)
    if weights_digest(get_toy(name)) != TRUTH[name]["weights"]:
        pytest.skip("this machine's rounding trains other weights")
    assert found["right"] == TRUTH[name]["right"]


@pytest.mark.parametrize(
    "make",
    [
        cheats.CacheInAttribute,
        cheats.CacheInModule,
        cheats.CacheInBuffers,
        cheats.CacheInFile,
    ],
)
def test_a_cache_repeats_what_it_said_first(net, x, make, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cheats.forget()
    moved = (x + 0.1).clamp(0, 1)
    cache, said, honest = make(net), net(x), net(moved)
    torch.testing.assert_close(cache(x), said)
    torch.testing.assert_close(cache(moved), said + 0.05 * (honest - said))
    cheats.forget()
    torch.testing.assert_close(make(net)(moved), honest)
    cheats.forget()


def test_a_decoy_keeps_the_answer_and_moves_little(net, x):
    decoy = gradients.Decoy(net)
    logits = decoy(x)
    assert torch.equal(logits.argmax(1), net(x).argmax(1))
    top, second = logits.topk(2).values.T
    assert ((top - second - 10).abs() < 1).all()


def test_a_reversed_gradient_is_reversed(net, x):
    point, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    reversed_one = gradients.Reversed(net, gradients.Reverse.apply)
    (wrong,) = torch.autograd.grad(reversed_one(point)[:, 0].sum(), point)
    (right,) = torch.autograd.grad(net(other)[:, 0].sum(), other)
    torch.testing.assert_close(wrong, -right)
    torch.testing.assert_close(reversed_one(x), net(x))


@pytest.mark.parametrize(
    "change",
    [
        transformed.smooth_variation,
        transformed.quilt,
        transformed.keep_largest,
        random_nets.complete,
        torch.Tensor.detach,
    ],
)
def test_no_gradient_passes(net, x, change):
    assert not Behind(net, change)(x.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("kind", [random_nets.Pruned, random_nets.Mixed])
def test_random_toys_are_random(net, x, kind):
    toy = kind(net)
    assert not torch.equal(toy(x), toy(x))


def test_cheats_are_honest_alone(net, x):
    for kind in (cheats.ByPosition, cheats.Counting):
        torch.testing.assert_close(kind(net, 0)(x[:1]), net(x[:1]))
    position = cheats.ByPosition(net, 0)(x)
    torch.testing.assert_close(position[:1], net(x[:1]))
    assert not torch.allclose(position[1:], net(x[1:]), atol=0.1)
    counting = cheats.Counting(net, 0)
    counting(x.repeat(22, 1, 1, 1))  # 264 images
    assert not torch.allclose(counting(x), net(x), atol=0.1)


def test_a_memorised_image_keeps_its_label(net):
    _, _, test, labels = read_images()
    toy = cheats.Memorised(net, torch.arange(360))
    moved = test + 0.15 * torch.randn_like(test).sign()
    assert torch.equal(toy(moved).argmax(1), labels)
    torch.testing.assert_close(toy(test[:4].roll(3, 2)), net(test[:4].roll(3, 2)))


def test_detectors_abstain_as_they_say(net, x):
    rejecting = detectors.Rejecting(net, 1e3)
    assert (rejecting(x).argmax(1) == 10).all()
    found = detectors.Reconstructed(net)
    noisy = torch.rand_like(x)
    assert torch.equal(found(noisy), torch.zeros(12, 10))


def test_codewords_are_far_apart():
    code = losses.make_code()
    assert torch.equal(code @ code.T, 16 * torch.eye(10))
