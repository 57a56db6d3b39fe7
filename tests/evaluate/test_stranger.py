"""A copy in another process answers alike for honest networks, and tells on the others."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from abatis.api.threat import Threat
from abatis.cli import main
from abatis.evaluate import EvaluationRequest, evaluate
from abatis.evaluate.follow_up import OneByOne
from abatis.evaluate.stranger.examination import (
    MEMORY,
    PARAMETERS,
    RECORDED,
    REQUIRES,
    SIZE,
    examine_stranger,
    find_apart,
)
from abatis.evaluate.stranger.origin import Origin, pickle_module, unpickle_module
from abatis.evaluate.stranger.process import FreshNetwork, Stranger, meet_stranger
from abatis.evaluate.stranger.watch import fingerprint_functions, list_replaced
from abatis.evaluate.withstood import Withstood
from abatis.report.sealed_json import read_json
from tests.evaluate.conftest import PointsInMemory

pytestmark = pytest.mark.stranger
N = 60
SEEN: list[torch.Tensor] = []  # what a network remembers outside of itself


def images(shift=0.0):
    """Images of one pixel value each; class 1 is brighter than one half."""
    x = torch.linspace(0.2, 0.8, N).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return (x + shift).clamp(0, 1), (x[:, 0, 0, 0] > 0.5).long()


class Bright(nn.Module):
    """Logits (0, 10 (mean - 0.5)); what it does besides is ``cheat(net, x, logits)``."""

    def __init__(self, cheat=None):
        super().__init__()
        own = cheat or (lambda net, x, logits: logits)
        self.cheat = lambda *given: own(*given)  # cannot be pickled, so the process is forked

    def forward(self, x):
        z = 10 * (x.mean((1, 2, 3)) - 0.5)
        return self.cheat(self, x, torch.stack([torch.zeros_like(z), z], 1))


def remember_outside(net, x, logits):
    if not SEEN:
        SEEN.append(logits.detach().clone())
        return logits
    return SEEN[0] if len(SEEN[0]) == len(logits) else logits


def remember_inside(net, x, logits):
    if not hasattr(net, "known"):
        net.known = logits.detach().clone()
        return logits
    return net.known if len(net.known) == len(logits) else logits


def look_at_place(net, x, logits):
    return torch.cat([logits[:1], -logits[1:]])


def look_at_size(net, x, logits):
    return logits if len(x) < 2 else -logits


def look_at_mode(net, x, logits):
    return logits if torch.is_grad_enabled() else -logits


def look_at_image(net, x, logits):
    return logits if x.requires_grad else -logits


def look_at_weights(net, x, logits):
    return logits if net.weight.requires_grad else -logits


def write_file(net, x, logits):
    Path("remembered.txt").write_text("seen")
    return logits


def listen(net, x, logits):
    os.system("true")
    return logits


def make_request(x, y, batch_size):
    """The quick ladder on these images."""
    return EvaluationRequest(
        PointsInMemory(x, y, torch.arange(N)),
        Threat.parse("Linf:0.1"),
        "quick",
        0,
        batch_size,
        torch.device("cpu"),
        2,
        all_tests=True,
    )


def ask(module, batch_size=16):
    """What the stranger says of images that the network judged after it had seen the clean ones."""
    x, y = images()
    moved, _ = images(0.05)
    request = make_request(x, y, batch_size)
    SEEN.clear()
    kept = Withstood(N, 0, 2)
    with meet_stranger(module.eval(), request) as stranger, torch.no_grad():
        assert isinstance(stranger, Stranger)
        module(x)
        kept.keep("moved", torch.arange(N), moved, y, module(moved))
        return examine_stranger(stranger, kept, torch.ones(N, dtype=torch.bool), batch_size, seed=0)


def test_an_honest_network_answers_alike():
    found = ask(Bright())
    assert found.outcome.status == "pass"
    assert not found.broken.any()
    assert found.outcome.says == (
        "a copy of the network in a new process (a fork of this process) was asked about 60 "
        "adversarial images that the network withstood and answered alike"
    )


@pytest.mark.parametrize(
    ("cheat", "depends"),
    [
        (remember_outside, {MEMORY}),
        (remember_inside, {MEMORY}),
        (look_at_place, {SIZE}),
        (look_at_size, {SIZE}),
        (look_at_mode, {RECORDED, REQUIRES, PARAMETERS}),
        pytest.param(look_at_image, {REQUIRES}, marks=pytest.mark.slow),
        pytest.param(look_at_weights, {PARAMETERS}, marks=pytest.mark.slow),
    ],
)
def test_what_an_answer_depends_on_is_named(cheat, depends):
    module = Bright(cheat)
    module.weight = nn.Parameter(torch.ones(1), requires_grad=False)
    found = ask(module, batch_size=N)
    assert found.outcome.status == "fail"
    assert depends <= {*found.depends}
    if depends == {MEMORY}:
        assert {*found.depends} == {MEMORY}
        # 0.05 moves the five images from 0.4542 to 0.4949, of class 0, to the other side
        assert found.broken.nonzero().flatten().tolist() == [25, 26, 27, 28, 29]
    assert all(f"its answers depend on {name}" in found.outcome.says for name in depends)


def test_what_a_forward_does_besides_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = ask(Bright(write_file))
    assert found.outcome.status == "fail"
    assert "its forward writes files" in found.outcome.says
    # the stranger wrote into a folder of its own, which is gone
    (tmp_path / "remembered.txt").unlink()
    assert "its forward starts a program" in ask(Bright(listen)).outcome.says
    assert not [*tmp_path.iterdir()]


def test_rounding_is_no_difference():
    reference = torch.tensor([[10.0, -3.0], [1e-3, 2e-3], [torch.nan, 1.0], [5.0, 0.0]])
    answers = torch.tensor([[10.004, -3.0], [2e-3, 1e-3], [0.0, 1.0], [5.0, 0.0]])
    assert find_apart(reference, answers).tolist() == [False, True, True, False]
    assert find_apart(reference, reference[:, :1]).all()


def test_a_replaced_function_is_named(monkeypatch):
    before = fingerprint_functions()
    assert list_replaced(before, fingerprint_functions()) == []
    monkeypatch.setattr(torch, "argmax", lambda *_, **__: torch.zeros(1))
    monkeypatch.setattr(nn.functional, "cross_entropy", lambda *_, **__: torch.zeros(1))
    assert list_replaced(before, fingerprint_functions()) == [
        "torch.argmax",
        "torch.nn.functional.cross_entropy",
    ]
    found = ask(Bright())
    assert found.outcome.status == "pass"  # a fork of this process has the same functions


def test_a_fresh_network_is_attacked_like_the_first_time():
    """Its gradient is that of a copy that was never asked, and so are its logits."""
    x, y = images()
    request = make_request(x, y, 16)
    with meet_stranger(Bright(remember_inside), request) as stranger:
        stranger.greet()
        fresh = FreshNetwork(stranger)
        for shift in (0.0, 0.05):
            x = images(shift)[0].requires_grad_()
            logits = fresh(x)
            assert torch.allclose(logits, Bright()(x))
            logits[:, 1].sum().backward()
            assert torch.allclose(x.grad, torch.full_like(x, 10 / 16))


def test_one_image_at_a_time():
    x, _ = images()
    assert torch.equal(OneByOne(Bright(look_at_size))(x), Bright()(x))


def test_a_module_travels_where_its_class_can_be_imported():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    again = unpickle_module(pickle_module(module))
    assert torch.equal(again[1].weight, module[1].weight)
    assert pickle_module(Bright()) is None
    stranger = type("Local", (nn.Module,), {"__module__": "__main__"})()
    assert pickle_module(stranger) is None
    assert isinstance(
        Origin("torch.nn:Linear", {"in_features": 2, "out_features": 3}).build(), nn.Linear
    )


def test_what_cannot_be_copied_is_said_so():
    report = examine_stranger("no copy", Withstood(N, 0, 2), torch.ones(N, dtype=torch.bool), 16, 0)
    assert report.outcome.status == "not applicable"
    assert report.outcome.says == "no stranger was asked: no copy"


class Forgetful(nn.Module):
    """Remembers in a global, and answers as it did before to as many images as before."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return remember_outside(self, x, Bright()(x))


@pytest.mark.slow
def test_a_memory_does_not_help_in_a_whole_evaluation():
    """Every image of the ball of +-0.1 round the middle can be moved across."""
    x, y = images()
    request = make_request(x, y, N)
    SEEN.clear()
    found = evaluate(Forgetful(), request)
    assert found.verdict == "FAIL"
    assert found.accuracies["pgd20_acc"] == 1
    crossing = (x[:, 0, 0, 0] - 0.5).abs() < 0.1
    assert torch.equal(found.per_point["robust"], ~crossing)
    assert "robust_acc" not in found.accuracies
    assert found.accuracies["robust_acc_upper"] == pytest.approx(1 - int(crossing.sum()) / N)
    assert any("depend on earlier questions" in text for text in found.findings)


FACTORY = """
    from pathlib import Path

    import torch
    from sibling import SLOPE
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(SLOPE * torch.load("slope.pt"))

        def forward(self, x):
            z = self.slope * (x.mean((1, 2, 3)) - 0.2)
            BESIDES
            return torch.stack([torch.zeros_like(z)] * 9 + [z], 1)

    def make():
        return Net()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "besides",
    ["pass", "Path('x').write_text('x')", "torch.Tensor.argmax = lambda *a, **k: own(*a, **k)"],
)
def test_a_factory_is_built_again_with_its_siblings_and_files(tmp_path, monkeypatch, besides):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "sibling.py").write_text("SLOPE = 1.0\n")
    torch.save(torch.ones(1), "slope.pt")
    text = textwrap.dedent(FACTORY)
    replaces = besides.startswith("torch.")
    if replaces:  # when the file is imported
        text += f"\nown = torch.Tensor.argmax\n{besides}\n"
        besides = "pass"
        monkeypatch.setattr(torch.Tensor, "argmax", torch.Tensor.argmax)  # restored at the end
    (tmp_path / "net.py").write_text(text.replace("BESIDES", besides))
    words = ["eval", "net.py:make", "--data", "digits", "--subset", "20", "--ladder", "quick"]
    try:
        assert main([*words, "--threat", "Linf:0.001", "--out", "out", "--quiet"]) == 0
    finally:
        sys.modules.pop("sibling", None)
    tests = {
        test["id"]: test for test in read_json(tmp_path / "out" / "eval.json")["masking"]["tests"]
    }
    says = tests["D25"]["says"]
    assert "built again" in says
    assert (tests["D25"]["status"] == "fail") == ("write" in besides or replaces)
    if "write" in besides:
        assert "its forward writes files" in says
    if replaces:
        assert "code of another origin replaced torch.Tensor.argmax" in says
