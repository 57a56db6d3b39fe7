"""torch's switches for float32: full in an evaluation, as asked in a run, as found afterwards."""

from __future__ import annotations

import warnings

import pytest
import torch

from abatis.evaluate.isolation import isolate
from abatis.system.arithmetic import ON_CPU, ON_GPU, use_full_float32, use_run_arithmetic
from abatis.testing import tiny_network

BACKENDS = torch.backends
LEVELS = ("generic", "cuda", "mkldnn")
NEW = hasattr(BACKENDS, "fp32_precision")
needs_new = pytest.mark.skipif(not NEW, reason="this torch has the older switches only")


def read_older(read):
    try:
        return read()
    except RuntimeError:
        return "torch refuses"


def read_all():
    """What every switch says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            "products": read_older(torch.get_float32_matmul_precision),
            "convolutions": read_older(lambda: BACKENDS.cudnn.allow_tf32),
            "search": BACKENDS.cudnn.benchmark,
            "cudnn in order": BACKENDS.cudnn.deterministic,
            "in order": torch.are_deterministic_algorithms_enabled(),
        }
    if NEW:
        getter = torch._C._get_fp32_precision_getter
        found |= {level: getter(level, "all") for level in LEVELS}
        found |= read_operations()
    return found


def read_operations():
    """The precision of every operation, as it takes effect."""
    return {name: find(name).fp32_precision for name in (*ON_GPU, *ON_CPU)}


def find(name):
    library, operation = name.split(".")
    return getattr(getattr(BACKENDS, library), operation)


SETTINGS = {
    "as torch starts": lambda: None,
    "matmul": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "everything": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "everything in full": lambda: setattr(BACKENDS, "fp32_precision", "ieee"),
    "cudnn": lambda: setattr(BACKENDS.cudnn, "fp32_precision", "tf32"),
    "conv in full": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    "oneDNN": lambda: setattr(BACKENDS.mkldnn.matmul, "fp32_precision", "bf16"),
    "older, high": lambda: torch.set_float32_matmul_precision("high"),
    "older, medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older, cudnn": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "search": lambda: setattr(BACKENDS.cudnn, "benchmark", True),
}


@pytest.fixture(params=SETTINGS)
def user(request):
    """A user who has set torch's switches; restored afterwards by value."""
    before = read_operations() if NEW else {}
    SETTINGS[request.param]()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if NEW:
            BACKENDS.fp32_precision = BACKENDS.cudnn.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        BACKENDS.cudnn.allow_tf32, BACKENDS.cudnn.benchmark = True, False
        for name, value in before.items():
            find(name).fp32_precision = value


def test_an_evaluation_is_in_full_float32_and_leaves_the_switches(user):
    before = read_all()
    with isolate(tiny_network(10)):
        inside = read_all()
        assert not inside["search"]
        if NEW:
            assert set(read_operations().values()) == {"ieee"}
        with use_full_float32():  # a validation within a run
            pass
        assert read_all() == inside
    assert read_all() == before


def test_a_run_on_a_gpu_rounds_as_asked_and_leaves_the_switches(user):
    before = read_all()
    for tf32 in (True, False):
        with use_run_arithmetic(torch.device("cuda"), tf32=tf32, deterministic=False):
            inside = read_all()
            assert inside["search"]
            if NEW:
                assert {inside[name] for name in ON_GPU} == {"tf32" if tf32 else "ieee"}
                assert {inside[name] for name in ON_CPU} == {"ieee"}
        assert read_all() == before


def test_a_deterministic_run_searches_for_no_algorithm(user):
    before = read_all()
    with use_run_arithmetic(torch.device("cuda"), tf32=True, deterministic=True):
        inside = read_all()
    assert inside["in order"]
    assert inside["cudnn in order"]
    assert not inside["search"]
    assert read_all() == before


@needs_new
def test_a_run_on_the_cpu_multiplies_in_full(user):
    with use_run_arithmetic(torch.device("cpu"), tf32=True, deterministic=False):
        assert set(read_operations().values()) == {"ieee"}
        assert not BACKENDS.cudnn.benchmark


def test_the_switches_are_restored_after_an_error():
    before = read_all()
    with pytest.raises(ZeroDivisionError), use_full_float32():
        raise ZeroDivisionError
    assert read_all() == before
