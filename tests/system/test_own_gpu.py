"""Which GPU a process of several takes, and what is refused in words."""

from __future__ import annotations

import pytest
import torch

from abatis.errors import UsageError
from abatis.runs.launch import make_environments
from abatis.system import distributed
from abatis.system.device import pick_device
from abatis.system.own_gpu import check_own_gpus, choose_gpu


@pytest.fixture
def machine(monkeypatch):
    """A machine with some visible GPUs, and this process's place among those that run there."""

    def make(gpus, local=0, here=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setenv("LOCAL_RANK", str(local))
        if here is None:
            monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        else:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))

    return make


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_each_process_takes_the_gpu_of_its_number(machine, asked):
    for local in range(4):
        machine(4, local, 4)
        assert choose_gpu(asked) == local


def test_a_task_with_one_visible_gpu_takes_it(machine):
    machine(1, 3)  # SLURM's fourth task of a machine
    assert choose_gpu("auto") == 0
    machine(1, 3, 4)
    assert choose_gpu("cuda") == 0


def test_processes_on_the_cpu_take_none(machine):
    machine(4, 1, 2)
    assert choose_gpu("cpu") is None
    machine(0, 1, 2)
    assert choose_gpu("auto") is None


@pytest.mark.parametrize(
    ("asked", "gpus", "message"),
    [
        ("cuda:1", 4, "names one GPU, and there are several processes"),
        ("mps", 0, "several processes train on CPUs or on CUDA GPUs only"),
        ("auto", 2, "4 processes on this machine, and torch sees 2 GPUs"),
    ],
)
def test_what_cannot_be_shared_is_refused(machine, asked, gpus, message):
    machine(gpus, 0, 4)  # also by the process that has a GPU, so that none waits for the others
    with pytest.raises(UsageError, match=message) as caught:
        choose_gpu(asked)
    assert "fix:" in str(caught.value)


def test_two_processes_on_one_gpu_are_refused():
    check_own_gpus(["here GPU-1", "here GPU-2", "there GPU-1"])
    check_own_gpus(["", ""])  # on CPUs, or where torch does not tell
    with pytest.raises(UsageError, match="processes 0 and 2 use the same GPU"):
        check_own_gpus(["here GPU-1", "here GPU-2", "here GPU-1"])


def test_the_launcher_says_how_many_processes_a_machine_has():
    assert {each["LOCAL_WORLD_SIZE"] for each in make_environments(3)} == {"3"}


def test_several_processes_without_cuda_train_on_the_cpu(monkeypatch):
    monkeypatch.setattr(distributed, "several", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert pick_device("auto") == torch.device("cpu")
