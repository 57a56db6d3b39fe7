"""The forecast of memory, operations and time, against numbers counted by hand."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import abatis
from abatis.config.command_line import parse_run
from abatis.config.run_config import RunConfig
from abatis.runs import forecast as forecasts
from abatis.runs.fake_step import StepCost, count_step
from abatis.runs.forecast import PEAKS, Peaks, compute_seconds, forecast, measure_pass
from abatis.runs.open_data import describe_run_data
from abatis.runs.prepare import prepare
from abatis.system.cost_meter import CostMeter, TooLong

CPU = torch.device("cpu")
KIB = 1024


def prepared(**options):
    config = RunConfig(data="digits", backbone="cnn", batch_size=32, device="cpu", **options)
    info = describe_run_data(config)
    return config, info, prepare(config, info, CPU, None).net


def rows_of(config, info, net, images=None):
    return {row.provider: row.options for row in forecast(config, info, net, images)}


def test_memory_by_hand():
    """Blocks of 512 bytes; what is freed is not held, and the peak stays."""
    meter = CostMeter(60, on_cpu=True)
    with FakeTensorMode(), meter:
        a = torch.zeros(256)  # 1 KiB
        b = a + 1  # 2 KiB in all
        view = b.view(16, 16)
        del b
        assert meter.held == 2 * KIB
        del view
        assert meter.held == KIB
        tiny = torch.zeros(1)
        assert meter.held == KIB + 512
        del tiny
    assert meter.peak == 2 * KIB
    assert a.shape == (256,)


def test_operations_by_hand():
    meter = CostMeter(60, on_cpu=True)
    with FakeTensorMode(), meter:
        x, w = torch.zeros(4, 8), torch.zeros(8, 16)
        meter.restart()
        y = x @ w
        y.t().relu()
    assert dict(meter.flop) == {torch.float32: 2 * 4 * 8 * 16}
    assert meter.moved == 2 * 4 * 16 * 4  # relu reads and writes
    assert meter.launches == 2


def test_a_count_ends():
    with FakeTensorMode(), CostMeter(0, on_cpu=True), pytest.raises(TooLong):
        torch.zeros(1)


def test_the_memory_of_a_saved_activation_is_held_until_the_backward_pass():
    meter = CostMeter(60, on_cpu=True)
    with FakeTensorMode(), meter:
        x = torch.zeros(1024, requires_grad=True)  # 4 KiB
        y = x.exp().sum()  # exp's result is saved
        assert meter.held == 8 * KIB + 512
        y.backward()
        assert meter.held == 8 * KIB + 512  # x, its gradient and y


@pytest.mark.parametrize(("steps", "passes"), [(1, 5), (3, 9)])
def test_forward_passes_of_a_step(steps, passes):
    """2 K + 3, but that the first layer needs no gradient of the images in the update."""
    cost = count_step(*prepared(attack={"steps": steps}), evaluation_batch=8)
    assert passes - 1 < cost.passes <= passes
    assert cost.images == 32


def test_the_network_stays_as_it_is():
    config, info, net = prepared(plugin=("awp",), ema=0.9, attack={"steps": 1})
    before = {name: value.clone() for name, value in net.module.state_dict().items()}
    count_step(config, info, net, 8)
    assert net.module.training
    for name, value in net.module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(weight.grad is None for weight in net.module.parameters())


def test_processes_and_micro_batches_need_less():
    config, info, net = prepared(attack={"steps": 1})
    whole = count_step(config, info, net, 8)
    halves = count_step(config.model_copy(update={"accumulate": 2}), info, net, 8)
    shared = count_step(config, info, net, 8, processes=2)
    weights = sum(weight.numel() for weight in net.module.parameters()) * 4
    assert halves.memory < whole.memory
    assert shared.images == 16
    assert shared.memory < whole.memory + weights


def test_a_named_gpu_is_computed(monkeypatch):
    """Two teraflop at half of ten, one gigabyte at 80 % of ten, and a thousand launches."""
    peaks = Peaks(1, 10e9, 10e12, 20e12, 40e12)
    cost = StepCost(0, 0, 1, {torch.float32: 10**12, torch.bfloat16: 10**12}, 1, 10**9, 1000)
    assert compute_seconds(peaks, cost, tf32=False) == pytest.approx(0.2 + 0.05 + 0.125)
    assert compute_seconds(peaks, cost, tf32=True) == pytest.approx(0.1 + 0.05 + 0.125)
    many = StepCost(0, 0, 1, {}, 1, 0, 10**6)
    assert compute_seconds(peaks, many, tf32=True) == 5
    monkeypatch.setattr(forecasts, "measure_pass", None)  # nothing is measured
    config, info, net = prepared(forecast="h200", attack={"steps": 1})
    found = rows_of(config, info, net, 320)
    assert {"step", "evaluation", "h200"} == found.keys()
    assert {"step", "epoch", "basis"} == found["h200"].keys()


def test_what_does_not_fit_is_told_what_helps(monkeypatch):
    config, info, net = prepared(forecast="h200", attack={"steps": 1})
    needed = count_step(config, info, net, 256)
    monkeypatch.setattr(forecasts, "EVAL_BATCH", 1)
    monkeypatch.setitem(PEAKS, "h200", Peaks(0.9 * needed.memory, 1e12, 1e12, 1e12, 1e12))
    found = rows_of(config, info, net)["does not fit"]
    (parts,) = (name for name in found if name.startswith("--accumulate"))
    fitting = config.model_copy(update={"accumulate": int(parts.split()[1])})
    memory = count_step(fitting, info, net, 1).memory
    assert memory <= 0.9 * needed.memory
    assert found[parts] == f"{memory / 2**20:.0f} MiB"
    assert "evaluation" not in found


MIB = 2**20


def help_with(monkeypatch, memory, size, images=32):
    """What is said where a step needs 100 MiB, or what ``memory`` makes of its run."""
    config, info, net = prepared(attack={"steps": 1})

    def count(changed, *_):
        return StepCost(memory(changed) * MIB, 1, images, {}, 1, 0, 0)

    monkeypatch.setattr(forecasts, "_count", count)
    cost = StepCost(100 * MIB, 60 * MIB, images, {}, 1, 0, 0)
    return forecasts._help(config, info, net, cost, size * MIB)


def halve(config):
    """Each of the three options halves the memory."""
    lean = (config.precision == "bf16") + config.grad_checkpointing
    return 100 // config.accumulate // 2**lean


def test_an_option_that_is_not_enough_is_called_so(monkeypatch):
    assert help_with(monkeypatch, halve, 40) == {
        "device has": "40 MiB",
        "--precision bf16": "50 MiB, too much",
        "--grad-checkpointing": "50 MiB, too much",
        "--accumulate 4": "25 MiB",
        "evaluation": "halves its batches where memory runs out",
    }


def test_options_together(monkeypatch):
    """Four images make at most four micro-batches of 25 MiB; a quarter of that fits."""
    found = help_with(monkeypatch, halve, 20, images=4)
    assert found["--accumulate 2 --precision bf16 --grad-checkpointing"] == "12 MiB"
    assert "--accumulate 4" not in found


def test_nothing_is_enough(monkeypatch):
    found = help_with(monkeypatch, halve, 1, images=4)
    assert found["more options"] == "none was found to be enough"


def test_an_option_that_needs_more_is_not_named(monkeypatch):
    """As bfloat16 does on a CPU without its arithmetic."""

    def grow(config):
        return 200 if config.precision == "bf16" else 100 // config.accumulate

    found = help_with(monkeypatch, grow, 60)
    assert "--precision bf16" not in found
    assert "--grad-checkpointing" not in found
    assert found["--accumulate 2"] == "50 MiB"


def test_this_device_is_measured(monkeypatch):
    monkeypatch.setattr(forecasts, "SECONDS", 0.05)
    config, info, net = prepared(forecast="here", attack={"steps": 1})
    assert 0 < measure_pass(net, info, 32) < 1
    found = rows_of(config, info, net)
    assert any("seconds of passes" in str(options.get("basis")) for options in found.values())


def test_without_the_option_there_is_none_on_a_cpu():
    assert forecast(*prepared(), None) == []


def test_a_step_that_reads_values_is_not_forecast(tmp_path):
    config, info, net = prepared(
        forecast="h200", plugin=("amm",), options={"amm": {}}, attack={"steps": 1}
    )
    assert "reads values" in str(rows_of(config, info, net)["none"]["why"])


def test_a_sharded_network_is_not_forecast():
    config, info, net = prepared(forecast="h200")
    sharded = config.model_copy(update={"shard": "root"})
    assert rows_of(sharded, info, net) == {
        "none": {"why": "with --shard, a process holds parts of the network"}
    }


def test_the_option():
    assert parse_run(["--forecast", "--dry-run"]).forecast == "here"
    assert parse_run(["--dry-run", "--forecast"]).forecast == "here"
    assert parse_run(["--forecast", "h200"]).forecast == "h200"
    assert parse_run([]).forecast == "none"
    names = set(get_args(RunConfig.model_fields["forecast"].annotation))
    assert names == {"none", "here", *PEAKS}


def test_a_dry_run_prints_it(capsys):
    abatis.run(RunConfig(data="digits", backbone="cnn", forecast="h200", dry_run=True))
    printed = capsys.readouterr().out
    assert "forecast" in printed
    assert "computed from its peaks" in " ".join(printed.split())


def test_a_network_given_from_python():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    config = RunConfig(data="digits", device="cpu", attack={"steps": 1})
    info = describe_run_data(config)
    net = prepare(config, info, CPU, module).net
    cost = count_step(config, info, net, 8)
    assert cost.forward == 2 * 128 * 64 * 10
