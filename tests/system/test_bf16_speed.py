"""bfloat16 that is slower than float32 is measured at the start of a run, and said."""

from __future__ import annotations

import pytest
import torch

from abatis.runs import engine
from abatis.system.bf16_speed import measure_bf16
from tests.helpers import tiny

CPU = torch.device("cpu")


def test_a_measurement_is_a_ratio_of_times_and_draws_nothing():
    before = torch.get_rng_state()
    assert 1e-3 < measure_bf16(CPU) < 1e3
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "bf16"}, "leave out --precision bf16"),
        ({"attack": {"precision": "bf16"}}, "leave out --attack.precision bf16"),
    ],
)
def test_a_slower_bf16_is_said_where_it_is_asked_for(tmp_path, monkeypatch, options, said):
    monkeypatch.setattr(engine, "measure_bf16", lambda device: 7.7)
    (note,) = engine.warn_about_device(tiny(tmp_path, **options), CPU, timed=True)
    assert note.startswith("bfloat16 takes 7.7 times as long as float32 on this device")
    assert note.endswith(said)


def test_nothing_is_measured_in_a_dry_run_or_without_bf16(tmp_path, monkeypatch):
    def refuse(device):
        raise AssertionError("measured")

    monkeypatch.setattr(engine, "measure_bf16", refuse)
    assert engine.warn_about_device(tiny(tmp_path), CPU, timed=True) == []
    assert engine.warn_about_device(tiny(tmp_path, precision="bf16"), CPU, timed=False) == []


def test_a_faster_bf16_is_not_mentioned(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "measure_bf16", lambda device: 0.5)
    assert engine.warn_about_device(tiny(tmp_path, precision="bf16"), CPU, timed=True) == []
