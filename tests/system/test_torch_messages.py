"""The installed torch still says what ``abatis.system.torch_messages`` looks for."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from abatis import UsageError
from abatis.system import torch_messages
from abatis.testing import replay, tiny_batch
from tests.helpers import ROOT

TWO_PROCESSES = """
import os, sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
from abatis.system import torch_messages as said

rank = int(sys.argv[1])
seconds = timedelta(seconds=60)
dist.init_process_group("gloo", f"file://{sys.argv[2]}", seconds, rank=rank, world_size=2)
impatient = dist.new_group(timeout=timedelta(seconds=1))
value = torch.zeros(1)
for group in (impatient, None):
    dist.all_reduce(value, group=group)
if rank == 1:
    sys.stdin.readline()  # keep the other process waiting, then end
    os._exit(0)
for group in (impatient, None):
    try:
        dist.all_reduce(value, group=group)
    except Exception as error:
        others = said.cannot_write(error) or said.is_out_of_memory(error)
        print(said.lost_process(error), others, flush=True)
os._exit(0)
"""


def raised_by(act):
    with pytest.raises(Exception) as caught:
        act()
    return caught.value


def test_an_operation_without_a_second_derivative():
    def differentiate_twice():
        x = torch.ones(1, requires_grad=True)
        value = torch.nn.functional.hardsigmoid(x)
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        gradient.sum().backward()

    assert torch_messages.find_missing_derivative(raised_by(differentiate_twice)) == "hardsigmoid"
    assert torch_messages.find_missing_derivative(RuntimeError("no way back")) == ""


def test_a_penalty_that_needs_such_a_derivative_is_explained():
    module = nn.Sequential(nn.Flatten(), nn.Hardsigmoid(), nn.Linear(192, 10))
    with pytest.raises(UsageError, match="no second derivative of hardsigmoid") as caught:
        replay("emr", module, [tiny_batch(4, 10)])
    assert len(str(caught.value).splitlines()) <= 4


def save_to_a_full_disk(megabytes):
    with open("/dev/full", "wb") as file:
        torch.save({"weights": torch.zeros(megabytes * 2**18)}, file)


def test_missing_operators_of_torchvision():
    """What importing a torchvision for another torch does: it describes an operator of its own."""
    code = (
        "import torch\n"
        "from abatis.system.torch_messages import lacks_torchvision_operators\n"
        "try:\n"
        "    torch.library.register_fake('torchvision::nms')(lambda *_: None)\n"
        "except RuntimeError as error:\n"
        "    print(lacks_torchvision_operators(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_memory_that_the_cpu_does_not_have():
    error = raised_by(lambda: torch.empty(2**60, dtype=torch.uint8))
    assert torch_messages.is_out_of_memory(error)
    assert not torch_messages.cannot_write(error)  # both speak of a failed "enforce"
    assert not torch_messages.lost_process(error)


def test_memory_that_a_device_does_not_have():
    """Its class tells it: a sub-class of RuntimeError, with any text."""
    assert torch_messages.is_out_of_memory(torch.OutOfMemoryError("no room"))


@pytest.mark.parametrize("megabytes", [0, 1, 32])
def test_a_full_disk(megabytes):
    """torch.save either hands on the file's own error or raises its own."""
    error = raised_by(lambda: save_to_a_full_disk(megabytes))
    assert isinstance(error, OSError) or torch_messages.cannot_write(error)
    assert not torch_messages.is_out_of_memory(error)


def test_a_full_disk_under_torchs_own_writer():
    error = raised_by(lambda: torch.save({"weights": torch.zeros(2**18)}, "/dev/full"))
    assert isinstance(error, RuntimeError)
    assert torch_messages.cannot_write(error)


def test_a_process_that_stops_responding_and_one_that_ends(tmp_path):
    command = [sys.executable, "-c", TWO_PROCESSES]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    first, second = (
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], **pipes)
        for rank in range(2)
    )
    try:
        assert first.stdout.readline() == "stopped responding False\n"
        second.communicate("end\n", timeout=60)
        assert first.communicate(timeout=60)[0] == "has ended False\n"
    finally:
        first.kill()
        second.kill()


def test_other_errors_are_not_taken_for_these():
    errors = [
        raised_by(lambda: torch.zeros(2) @ torch.zeros(3)),
        raised_by(lambda: torch.zeros(2).view(3)),
        ValueError("DefaultCPUAllocator, PytorchStreamWriter, connection closed by peer"),
        KeyError("timed out"),
    ]
    for error in errors:
        assert not torch_messages.is_out_of_memory(error)
        assert not torch_messages.cannot_write(error)
        assert not torch_messages.lost_process(error)


def test_the_warning_about_an_argument_that_older_versions_need():
    if "forward_sync_buffers" not in inspect.signature(DistributedDataParallel).parameters:
        pytest.skip("this version of torch has nothing to warn about")
    source = inspect.getsource(DistributedDataParallel.__init__)
    assert f'"{torch_messages.BROADCAST_BUFFERS}' in source
