"""An NVIDIA card that torch cannot use is told with the fix."""

from __future__ import annotations

import subprocess

import pytest
import torch

from abatis.errors import UsageError
from abatis.runs import engine
from abatis.system import device, unseen_gpu
from abatis.system.unseen_gpu import UnseenGpu, find_unseen_gpu
from tests.helpers import tiny


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(unseen_gpu, "_has_card", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_build_without_cuda_is_named(card, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    found = find_unseen_gpu()
    assert "is built without CUDA" in found.why
    assert "install a CUDA build of torch" in found.fix


def test_a_hidden_card_and_an_old_driver_are_named(card, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "too old for CUDA 13.0" in find_unseen_gpu().why
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_unseen_gpu().fix.startswith("unset CUDA_VISIBLE_DEVICES")


def test_without_a_card_or_with_cuda_nothing_is_said(card, monkeypatch):
    monkeypatch.setattr(unseen_gpu, "_has_card", lambda: False)
    assert find_unseen_gpu() is None
    monkeypatch.setattr(unseen_gpu, "_has_card", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_unseen_gpu() is None


@pytest.mark.parametrize(
    ("code", "listed", "found"), [(0, "GPU 0: A card", True), (0, "", False), (9, "GPU", False)]
)
def test_the_driver_s_program_tells_of_a_card(monkeypatch, code, listed, found):
    done = subprocess.CompletedProcess(unseen_gpu.LISTING, code, listed)
    monkeypatch.setattr(unseen_gpu.Path, "glob", lambda self, pattern: iter(()))
    monkeypatch.setattr(unseen_gpu.shutil, "which", lambda name: name)
    monkeypatch.setattr(unseen_gpu.subprocess, "run", lambda *args, **kwargs: done)
    assert unseen_gpu._has_card() is found


def test_the_plan_says_so_only_where_the_cpu_was_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "find_unseen_gpu", lambda: UnseenGpu("no driver", "install one"))
    cpu = torch.device("cpu")
    (note,) = engine.warn_about_device(tiny(tmp_path), cpu, timed=False)
    card = "torch cannot use this machine's NVIDIA card"
    assert note == f"this run is on the CPU: {card}: no driver; install one"
    assert engine.warn_about_device(tiny(tmp_path, device="cpu"), cpu, timed=False) == []


def test_asking_for_cuda_says_why_there_is_none(monkeypatch):
    monkeypatch.setattr(device, "find_unseen_gpu", lambda: UnseenGpu("no driver", "install one"))
    with pytest.raises(UsageError, match="install one"):
        device.pick_device("cuda:99")
