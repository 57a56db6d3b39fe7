"""Draws are pure functions of (seed, purpose, step), whatever the batch is cut into."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import abatis
from abatis.api import randomness
from abatis.api.randomness import Randomness, per_sample, seed_for, seeded
from abatis.evaluate.judge import Judge
from abatis.nets.net import Net
from abatis.testing import plan_of, tiny_batch, tiny_network
from tests.helpers import our_plugins, tiny

METHODS = ["at", *our_plugins()]


def generators():
    """The states of all global ones."""
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


def test_a_draw_depends_on_seed_purpose_and_step_alone():
    like = torch.empty(4, 2, 3)
    draws = {}
    for seed, purpose, step in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]:
        random_ = Randomness(seed)
        random_.at(step)
        draws[seed, purpose, step] = random_.uniform(purpose, like)
        torch.rand(7)  # the global generator plays no part
        assert torch.equal(random_.uniform(purpose, like), draws[seed, purpose, step])
    first, *others = draws.values()
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("cuts", [[(0, 8)], [(0, 4), (4, 8)], [(0, 3), (3, 6), (6, 8)]])
def test_micro_batches_take_their_rows_of_the_global_draw(cuts):
    whole = Randomness(3)
    whole.at(5)
    expected = whole.normal("start", torch.empty(8, 2))
    parts = []
    for start, stop in cuts:
        part = Randomness(3)
        part.at(5, slice(start, stop), 8)
        parts.append(part.normal("start", torch.empty(stop - start, 2)))
    assert torch.equal(torch.cat(parts), expected)


def test_a_process_draws_its_own_rows_alone():
    """Numbers of the whole batch would not fit into any memory."""
    large, small = Randomness(3), Randomness(3)
    large.at(5, slice(2**40, 2**40 + 2), 2**41)
    small.at(5, torch.tensor([2**40, 2**40 + 1]), 2)
    like = torch.empty(2, 3)
    assert torch.equal(large.uniform("start", like), small.uniform("start", like))


def test_a_draw_of_a_sample_does_not_depend_on_its_batch():
    like = torch.empty(3, 2, 2)
    together = per_sample("uniform", 0, "p", torch.tensor([4, 9, 2]), like)
    alone = per_sample("uniform", 0, "p", torch.tensor([9]), like[:1])
    assert torch.equal(together[1], alone[0])


def test_the_global_generators_are_left_as_found():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    with seeded(0, "x"):
        inside = random.random(), np.random.rand(), torch.rand(1).item()
    with seeded(0, "x"):
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == inside
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_gpus_that_start_within_a_run_begin_as_they_would_have(monkeypatch):
    """torch.manual_seed seeds GPUs that have not started, too."""
    given = []
    monkeypatch.setattr(randomness, "_has_gpu_build", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", given.append)
    torch.manual_seed(7)
    with seeded(0, "x"):
        assert given[-1] != 7
    assert given[-1] == 7


@pytest.mark.parametrize("method", METHODS)
def test_training_by_any_method_leaves_the_global_generators_as_found(tmp_path, method):
    chosen = {} if method == "at" else {"plugin": [method]}
    chosen |= {"use": {"weights": "averaging"}} if method == "seat" else {}
    chosen |= {"convstem": {"other": "keep"}} if method == "convstem" else {}
    before = generators()
    abatis.run(tiny(tmp_path, epochs=1, limit=40, ema=0.9, augment="crop-flip", **chosen))
    assert generators() == before


@pytest.mark.parametrize("method", METHODS)
def test_the_attack_of_any_method_leaves_the_global_generators_as_found(method):
    net = Net(tiny_network(10))
    plan = plan_of(*([] if method == "at" else [method]), net=net, num_classes=10)
    before = generators()
    with net.attack_mode(False):
        plan.attacker(net, tiny_batch(4, 10))
    assert generators() == before


def test_every_attack_of_an_evaluation_leaves_the_global_generators_as_found(tmp_path, monkeypatch):
    attacked, moved = Judge.run_attack, {}

    def call(self, name, *rest, **named):
        before = generators()
        verdicts = attacked(self, name, *rest, **named)
        moved[name] = generators() != before
        return verdicts

    monkeypatch.setattr(Judge, "run_attack", call)
    before = generators()
    abatis.run(tiny(tmp_path, epochs=1, limit=20, eval="standard"))
    assert generators() == before
    assert {"PGD-20", "APGD-CE", "APGD-T", "FAB-T", "Square"} <= moved.keys()
    assert not any(moved.values())


def test_seeds_fit_every_generator():
    assert all(0 <= seed_for(seed, "p", step) < 2**63 for seed in range(50) for step in range(50))
