"""The benchmark's steps: the plain loops make our update, and cost what the published ones cost."""

from __future__ import annotations

import copy
import json
import sys
from functools import partial

import pytest
import torch
from benchmarks import side_by_side, step, step_batches, step_page
from benchmarks.step_peers import PEERS, mair_step, rade_step
from benchmarks.step_variants import (
    METHODS,
    all_variants,
    difference,
    peer_difference,
    subject,
    units,
)
from torch import nn

WITH_LOOP = [name for name, method in METHODS.items() if method.loop is not None]
ROUNDING = 1e-12
PUBLISHED = {"at": 35, "sovr": 35, "trades": 39, "mart": 26, "mail": 23, "awp": 38}
NEEDED = {"at": 23, "sovr": 23, "trades": 27, "mart": 26, "mail": 23, "awp": 26}


@pytest.fixture(scope="module")
def small():
    """Eight images of 8x8 in float64."""
    return subject("resnet8", 8, image_size=8).double(8)


@pytest.fixture(scope="module")
def work():
    return units(subject("resnet8", 8, image_size=8))


@pytest.mark.parametrize(
    ("name", "batch_statistics"),
    [(name, mode) for name in WITH_LOOP for mode in (False, True) if (name, mode) != ("emr", True)],
)
def test_a_plain_loop_makes_our_update(name, batch_statistics, small):
    """From the same start, with folded norms where the attack has eval statistics."""
    assert difference(METHODS[name], small, batch_statistics) <= ROUNDING


def test_that_of_emr_with_batch_statistics_differs_by_the_running_ones_alone(small):
    """Its published attack moves the running statistics that its penalty reads."""
    still = subject("resnet8", 8, image_size=8).double(8)
    for norm in (part for part in still.module.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.momentum = 0.0
    assert difference(METHODS["emr"], small, batch_statistics=True) > ROUNDING
    assert difference(METHODS["emr"], still, batch_statistics=True) <= ROUNDING


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_a_plain_loop_costs_what_the_published_one_costs(name, published, work):
    """In forward passes, up to the gradient of the first convolution: a few hundredths."""
    assert work[f"{name}: plain loop"] == pytest.approx(published, abs=0.2)


@pytest.mark.parametrize(("name", "needed"), NEEDED.items())
def test_our_step_costs_no_pass_more_than_it_needs(name, needed, work):
    for variant in METHODS[name].variants:
        assert work[f"{name}: {variant}"] == pytest.approx(needed, abs=0.2)
    assert work["at: bare passes"] == pytest.approx(23, abs=0.2)


def test_work_is_counted_in_multiply_adds_of_two_operations():
    x, weight = torch.rand(5, 3, 8, 8), torch.rand(4, 3, 3, 3, requires_grad=True)
    forward = 2 * 5 * 4 * 8 * 8 * 3 * 9
    assert side_by_side.flop(lambda: nn.functional.conv2d(x, weight, padding=1)) == forward
    assert (
        side_by_side.flop(lambda: nn.functional.conv2d(x, weight, padding=1).sum().backward())
        == 2 * forward
    )


def test_peak_memory_is_what_is_held_at_once():
    """A tensor of 4 MB, then two of 2 MB at once."""

    def call():
        torch.empty(1_000_000)
        _ = torch.empty(500_000), torch.empty(500_000)

    assert side_by_side.peak_bytes(side_by_side.Variant(call, lambda: None)) == pytest.approx(
        4e6, rel=1e-3
    )


def test_a_ratio_is_the_median_over_the_rounds():
    assert side_by_side.ratio({"a": [1.0, 2.0, 9.0], "b": [1.0, 4.0, 3.0]}, "a", "b") == 1.0


def test_variants_take_turns_in_both_orders():
    calls = []
    variants = {
        name: side_by_side.Variant(lambda name=name: calls.append(name), lambda: None)
        for name in "abc"
    }
    times = side_by_side.measure(variants, rounds=2, warm_up=False)
    assert "".join(calls) == "abccba"
    assert {len(rounds) for rounds in times.values()} == {2}


def test_a_goal_that_is_missed_says_where_the_time_goes():
    variant = side_by_side.Variant(
        lambda: torch.rand(200, 200) @ torch.rand(200, 200), lambda: None
    )
    steps, times = dict.fromkeys("ab", variant), {"a": {"a": [2.0], "b": [1.0]}}
    work = {"a": 6.0, "b": 4.0}
    met, missed = (
        step.reached(step.Goal("a / b", "a", "b", limit), times, steps, work)
        for limit in (2.0, 1.0)
    )
    assert met == {
        "goal": "a / b",
        "limit": 2.0,
        "measured": 2.0,
        "met": True,
        "by_operations": 1.5,
    }
    assert "aten::mm" in missed["busiest"]
    assert "mm" in "".join(step_page.missed([met, missed]))


def test_every_goal_names_steps_that_are_timed_together(small):
    found, absent = all_variants(small)
    groups = step.grouped(found | dict.fromkeys(absent))
    for goal in step.goals_of("resnet8") + step.goals_of("resnet18"):
        assert {goal.over, goal.under} <= groups[step.group_of(goal.over)].keys()


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.start is not None])
def test_another_library_makes_our_update(name, small):
    """MAIR's TRADES moves the running statistics before its attack; here they stand still."""
    still = copy.deepcopy(small)
    for norm in (part for part in still.module.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.momentum = 0.0
    try:
        found = peer_difference(name, still)
    except ImportError as error:
        pytest.skip(str(error))
    assert found <= ROUNDING


MAIR = """
class RobModel:
    def __init__(self, model, n_classes):
        self.model, self.n_classes = model, n_classes

class AT:
    def __init__(self, rmodel, eps, alpha, steps):
        self.said = [rmodel.n_classes, eps * 255, alpha * 255, steps]

    def setup(self, optimizer):
        self.optimizer = optimizer

    def fit(self, train_loader, n_epochs, record_type, save_type):
        self.optimizer.append([*self.said, len(train_loader), n_epochs, record_type, save_type])
"""


def test_mair_is_found_in_the_folder_that_is_named(tmp_path, monkeypatch):
    (tmp_path / "mair.py").write_text(MAIR)
    monkeypatch.setenv("ABATIS_MAIR", str(tmp_path))
    monkeypatch.delitem(sys.modules, "mair", raising=False)
    said, before = [], list(sys.path)
    mair_step(nn.Identity(), said)(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    assert said == [[10, 8, 2, 10, 1, 1, None, None]]
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "mair")


def test_a_loop_without_a_folder_says_what_to_set(monkeypatch):
    monkeypatch.delenv("ABATIS_RADE", raising=False)
    with pytest.raises(ImportError, match="ABATIS_RADE names no folder"):
        rade_step(nn.Identity(), [])


def test_the_record_by_batch_size_says_what_is_slower_and_what_is_absent(monkeypatch):
    """Ours would take 1.5 times as long as MAIR, and half as long as the loop."""
    times = {"ours": [3.0], "at: MAIR": [2.0], "at: Rade's loop": [6.0]}
    monkeypatch.setattr(step_batches, "subject", partial(subject, image_size=8))
    monkeypatch.setattr(step_batches, "measure", lambda steps, rounds: times)
    record = side_by_side.facts("torch") | step_batches.measure_all({"resnet8": {1: 1}})
    assert record["slower"] == ["resnet8 at 1, at: MAIR"]
    shown = step_batches.make_page(json.loads(json.dumps(record)))
    assert "| resnet8 | 1 | 1 | channels_last | 1.500 | 0.500 |" in shown
    assert "Slower: resnet8 at 1, at: MAIR." in shown
    for name, why in record["absent"].items():
        assert f"Not compared: {name} ({why})." in shown


def test_a_record_names_the_instruction_set():
    assert torch.backends.cpu.get_cpu_capability() in side_by_side.facts()["machine"]


@pytest.mark.slow
def test_a_record_makes_a_page(monkeypatch, work):
    """The whole way with four small images; what takes long is left out."""
    monkeypatch.setattr(step, "subject", partial(subject, image_size=8))
    monkeypatch.setattr(step, "units", lambda of: work)
    monkeypatch.setattr(step, "machine_peaks", lambda: {"kernel": 1.0})
    monkeypatch.setattr(step, "difference", lambda method, small, batch_statistics: 2.5e-16)
    record = side_by_side.facts("torch", "no such package") | step.measured(
        "resnet8", batch=4, rounds=1, brief=True
    )
    shown = step_page.page(json.loads(json.dumps(record)))
    assert "no such package absent" in shown
    for name in WITH_LOOP:
        assert f"| {name} | float32 |" in shown
    assert "2.5e-16" in shown
    assert f"| {step.GOALS[0].what} | 0.45 |" in shown
