"""Trainings on a CUDA device that is not there: one device, and a host that never waits.

``guard.cpp`` is compiled and loaded before torch, so all cases run in one process of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.cases import ON_CPU, list_cases, list_faults
from tests.helpers import ROOT, our_plugins

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
TORCH = Path(torch.__file__).parent
CASES = list_cases()
# DeepFool runs on the rows that have not arrived: a look at who counts, at most five at who has
# arrived, and one at the end; for two terms, twice where the worst of each class are found first
READS_OF_AMM = {"amm": 28, "amm+emr": 28, "amm, avg": 14}
IN_BF16 = ("convolution", "addmm", "mm")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """What happened in all cases; skipped where nothing can be compiled."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler (g++) to build the device guard with")
    folder = tmp_path_factory.mktemp("gpu")
    guard = folder / "guard.so"
    flags = ["-shared", "-fPIC", "-std=c++20", f"-I{TORCH / 'include'}", f"-L{TORCH / 'lib'}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    source = str(HERE / "guard.cpp")
    subprocess.run(
        [compiler, *flags, abi, source, "-o", str(guard), "-lc10", "-ltorch_cpu"], check=True
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.cases", str(guard), str(folder), str(folder / "table")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "table").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_a_step_stays_on_the_device_and_the_host_never_waits(table, name):
    found = table["cases"][name]
    assert "error" not in found, found["error"]
    assert found["kernels"] > 400
    assert found["devices"] == ["cuda:0"]
    assert found["finite"]
    if name in READS_OF_AMM:
        assert all("deepfool.py" in place or "penalty.py" in place for place in found["waits"])
        assert 0 < sum(found["waits"].values()) <= 2 * READS_OF_AMM[name]  # of two steps
    else:
        assert found["waits"] == {}


@pytest.mark.parametrize("name", our_plugins())
def test_no_method_needs_float64(table, name):
    """GPUs of kind mps have none."""
    assert table["cases"][name]["doubles"] == []


@pytest.mark.parametrize("name", ON_CPU)
def test_the_device_computes_what_the_cpu_computes(table, name):
    """Bit for bit, given the same layout: it computes there."""
    on_gpu, on_cpu = (table["cases"][f"{name} on {device}"] for device in ("cuda", "cpu"))
    assert (on_gpu["devices"], on_cpu["devices"]) == (["cuda:0"], ["cpu"])
    assert on_gpu["digest"] == on_cpu["digest"]


@pytest.mark.parametrize("name", [name for name in CASES if "bf16" in name])
def test_bf16_is_really_on(table, name):
    types = table["cases"][name]["types"]
    for operation in IN_BF16:
        assert types[operation] == ["torch.bfloat16"], operation
    assert "torch.float32" in table["cases"]["at"]["types"]["convolution"]


READ = "_local_scalar_dense"
SIGNS = {
    "an index on the CPU": "an index on the CPU",
    "a read": READ,
    "a mask": "a mask as an index",
    "a condition": READ,
    "a copy to the host": "a copy to the host",
    "a blocking copy": "a copy to the device that the host waits for",
}
ERRORS = {
    "a generator of the CPU": "Expected a 'cuda' device type for generator but found 'cpu'",
    "two devices": "Expected all tensors to be on the same device",
    "a moment left on the CPU": "Expected all tensors to be on the same device",
}


@pytest.mark.parametrize("name", list_faults())
def test_a_planted_fault_is_seen(table, name):
    found = table["cases"][name]
    if name in ERRORS:
        assert ERRORS[name] in found["error"]
    else:
        assert [place.startswith(SIGNS[name]) for place in found["waits"]] == [True]
        assert sum(found["waits"].values()) == 2  # once in each step


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_run_moves_between_cpu_and_gpu(table, name):
    """It begins on the CPU, goes on on the GPU, and ends on the CPU; validated in every epoch."""
    found = table["moved"][name]
    assert found["device"] == "pretended"
    assert found["kernels"] > 1000
    assert "not bit-exact: device was cpu, now pretended" in found["resumed"][0]
    note = "a GPU makes sums in no fixed order without --deterministic"
    assert note in found["resumed"][0]
    assert found["epochs"] == [1, 2, 3]
    assert found["in a step"] == {
        "search": True,
        "products": "tf32",
        "convolutions": "tf32",
        "channels_last": True,
        "fused": True,
    }
    assert not found["back in a step"]["fused"]
    assert found["back in a step"]["convolutions"] == "ieee"
    assert (found["clean_acc"] is None) == (name == "adamw")  # only one of them is evaluated
