"""The installed pyautoattack still says what we match, and another version runs unchanged."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path

import pyautoattack
import pytest
import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.evaluate import EvaluationRequest, autoattack, evaluate
from abatis.evaluate import pyautoattack_messages as messages
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Judge
from abatis.evaluate.masking import probes
from tests.evaluate.conftest import PointsInMemory
from tests.evaluate.planted import dim, shorten

CPU = torch.device("cpu")
PATCHED = ["apgd", "apgd_targeted", "fab", "square"]


class Bright(nn.Module):
    """Three classes by the brightness of an image, whose class is 1 above 0.5."""

    def forward(self, x):
        bright = x.mean((1, 2, 3))
        return torch.stack([0.5 - bright, bright - 0.5, -1 - 0 * bright], 1)


class Flat(Bright):
    """Its gradient is zero everywhere."""

    def forward(self, x):
        return super().forward((8 * x).round() / 8)


class Noisy(Bright):
    """Its logits change from call to call."""

    def forward(self, x):
        return super().forward(x) + 0.1 * torch.rand(len(x), 3)


class Dynamic(Bright):
    """Takes a gradient in its forward pass."""

    def forward(self, x):
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            torch.autograd.grad(inner.square().sum(), inner)
        return super().forward(x)


class Probabilities(Bright):
    """Its outputs sum to 1."""

    def forward(self, x):
        return super().forward(x).softmax(1)


def run_package(net, attack="apgd-dlr"):
    """What pyautoattack says about a network, on two images."""
    foreign = pyautoattack.AutoAttack(net, norm="Linf", eps=0.01, seed=0, device=CPU)
    foreign.verbose = False
    foreign.attacks_to_run = [attack]
    foreign.apgd.n_iter = 5
    with messages.collect_warnings() as said:
        x = torch.full((2, 1, 4, 4), 0.7)
        foreign.run_standard_evaluation(x, torch.ones(2, dtype=torch.int64), batch_size=2)
    return said


@pytest.fixture(autouse=True)
def reset():
    messages.reset_call_counts()
    yield
    messages.reset_call_counts()


def test_its_log_has_the_name_we_listen_to():
    foreign = pyautoattack.AutoAttack(Bright(), norm="Linf", eps=0.01, device=CPU)
    assert foreign.logger is logging.getLogger(messages.LOGGER)
    assert run_package(Bright(), "apgd-ce") == []


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (Flat, "there are 2 points with zero gradient!"),
        (Noisy, "it seems to be a randomized defense!"),
        (Dynamic, "it seems to be a dynamic defense!"),
    ],
)
def test_each_warning_becomes_one_finding_without_its_pointer(net, text):
    said = run_package(net())
    about = [message for message in said if text in message]
    assert about
    assert all(messages.POINTER in message for message in about)
    found = [finding for finding in messages.summarize_warnings(about * 2) if text in finding]
    assert len(found) == 1
    assert found[0].startswith("AutoAttack warns: ")
    assert "flags_doc" not in found[0]
    assert found[0].endswith(f"(the first of {2 * len(about)} such warnings)")


def test_probabilities_are_judged_by_our_own_test():
    said = run_package(Probabilities())
    assert any(messages.CHECKED_HERE in message for message in said)
    assert not any("logits" in finding for finding in messages.summarize_warnings(said))


def test_the_package_counts_on_until_it_is_reset():
    run_package(Dynamic(), "apgd-ce")
    assert any("dynamic" in message for message in run_package(Bright(), "apgd-ce"))
    messages.reset_call_counts()
    assert run_package(Bright(), "apgd-ce") == []


def test_the_installed_version_is_the_one_that_is_tested():
    assert messages.is_tested()
    assert messages.check_version() == []
    project = tomllib.loads(
        (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    )
    major, minor = map(int, messages.TESTED.split("."))
    asked = f"pyautoattack>={messages.TESTED}.0,<{major}.{minor + 1}"
    assert asked in project["project"]["dependencies"]


@pytest.fixture
def other_version(monkeypatch):
    monkeypatch.setattr(messages, "version", lambda name: "0.3.0")


def list_patched(net):
    """Which of the package's attacks have a replaced method."""
    foreign = autoattack._build_package(
        Judge(net, one_point(), Threat.parse("Linf:0.02"), 8), "standard", 0, CPU
    )
    return [name for name in PATCHED if "attack_single_run" in vars(getattr(foreign, name))]


def one_point():
    return PointsInMemory(
        torch.full((1, 1, 4, 4), 0.7), torch.ones(1, dtype=torch.int64), torch.zeros(1)
    )


def test_the_tested_version_is_patched():
    with isolate(Bright()) as net:
        assert list_patched(net) == PATCHED


@pytest.mark.usefixtures("other_version")
def test_another_version_is_left_alone():
    with isolate(Bright()) as net:
        assert list_patched(net) == []


@pytest.mark.parametrize("known", [True, False])
def test_another_version_is_a_finding(points, monkeypatch, known):
    shorten(monkeypatch)
    skipped = []
    monkeypatch.setattr(probes, "replace_search", lambda square, ask: skipped.append(square))
    if not known:
        monkeypatch.setattr(messages, "version", lambda name: "1.2.0")
    net, data = dim(points)
    large = points(data.x.repeat(1, 1, 3, 3), data.y)
    request = EvaluationRequest(
        large,
        Threat.parse("Linf:0.001"),
        ladder="quick",
        seed=0,
        batch_size=20,
        device=CPU,
        num_classes=2,
        square_bf16=True,
        all_tests=True,
    )
    found = evaluate(nn.Sequential(nn.AdaptiveAvgPool2d(2), net), request)
    said = [finding for finding in found.findings if "pyautoattack 1.2.0" in finding]
    assert (len(said), bool(skipped)) == ((0, True) if known else (1, False))


@pytest.mark.usefixtures("other_version")
def test_another_version_has_no_square_in_bf16(points, monkeypatch):
    shorten(monkeypatch)
    whole = autoattack._build_package

    def quicker(*arguments):
        foreign = whole(*arguments)
        foreign.square.n_queries = 5
        for attack in (foreign.apgd, foreign.apgd_targeted, foreign.fab):
            attack.n_iter = 5
        return foreign

    monkeypatch.setattr(autoattack, "_build_package", quicker)
    data = points(torch.full((2, 1, 8, 8), 0.55), torch.ones(2, dtype=torch.int64))
    request = EvaluationRequest(
        data,
        Threat.parse("Linf:0.1"),
        ladder="standard",
        seed=0,
        batch_size=2,
        device=CPU,
        num_classes=3,
        square_bf16=True,
    )
    found = evaluate(Bright(), request)
    assert "autoattack_acc" in found.accuracies
    assert "autoattack_fast_acc" not in found.accuracies
