"""The generators of GPUs are left as found, also where CUDA starts within the block."""

from __future__ import annotations

import pytest
import torch

from abatis.api import randomness
from abatis.api.randomness import reseed, untouched


@pytest.fixture
def gpu(monkeypatch):
    """A build for GPUs that has not started CUDA; gives the seeds that its generators got."""
    seeds = []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    return seeds


def test_cuda_that_starts_inside_begins_as_the_user_has_seeded_it(gpu):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)  # seeds the CPU, and CUDA when it starts
        gpu.clear()
        with untouched():
            reseed(0, "a run")
        assert gpu[-1] == 1234
        assert torch.initial_seed() == 1234


def test_cuda_that_runs_is_restored_by_torch(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with untouched():
        pass
    assert gpu == []


def test_a_forked_process_does_not_touch_cuda(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with untouched():
        pass
    assert gpu == []


def test_a_build_without_gpus_seeds_none(gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not randomness._has_gpu_build() or torch.version.hip
    with untouched():
        pass
    assert gpu == []
