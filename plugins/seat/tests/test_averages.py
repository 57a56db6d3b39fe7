"""The averages against those of the authors' code, and which weights a run then judges."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tests.frontier import Tiny, frontier, is_close, load, tensor_of
from tests.helpers import tiny

from abatis import Net, Now, run
from abatis.testing import plan_of, tiny_network


class Processes:
    """The context of one process."""

    def sum_over_processes(self, tensors):
        return tensors


def hooks_of(module, **settings):
    plan = plan_of("seat", net=Net(module), num_classes=10, **settings)
    return dict(plan.trainers)["seat"]


def test_the_average_of_updates_is_the_released_one():
    """Sixty updates of parameters, running statistics and counters."""
    arrays = frontier("averaging")
    module = load(Tiny(), arrays, "seat_init_")
    hooks, order = hooks_of(module), [str(name) for name in arrays["seat_order"]]
    for number, row in enumerate(arrays["seat_trajectory"], start=1):
        state, place = module.state_dict(), 0
        for name in order:
            size = state[name].numel()
            values = torch.tensor(row[place : place + size]).reshape(state[name].shape)
            state[name].copy_(values)
            place += size
        assert place == len(row)
        hooks.after_update(Processes())
        if f"seat_shadow{number}_fc.bias" not in arrays:
            continue
        for name, value in hooks.judged().state_dict().items():
            assert is_close(value, tensor_of(arrays, f"seat_shadow{number}_{name}")), name


def test_the_average_of_epochs_is_the_released_one():
    """Four collections, each with running statistics afresh over batches of 4, 4 and 3."""
    arrays = frontier("averaging")
    batches = [tensor_of(arrays, f"swa_batch{number}_x") for number in range(3)]
    module = load(Tiny(), arrays, "swa_source0_")
    hooks = hooks_of(module, options={"average": "swa", "start": 2}, train_batches=batches)
    hooks.epoch_end(1)
    assert hooks.judged() is None
    for number in range(4):
        load(module, arrays, f"swa_source{number}_")
        hooks.epoch_end(2 + number)
        for name, value in hooks.judged().state_dict().items():
            assert is_close(value, tensor_of(arrays, f"swa_result{number}_{name}")), name


def test_the_average_of_epochs_may_begin_at_a_share_of_the_training():
    """Epochs of two steps, of four epochs: the third is the first whose end lies behind a half."""
    hooks = hooks_of(tiny_network(10), options={"average": "swa", "begin_at": 0.5})
    hooks.run.place_renewer(lambda module: None)
    found = []
    for epoch in range(4):
        last = 2 * epoch + 1
        hooks.run.clock.now = Now(last, epoch, last / 8)
        hooks.epoch_end(epoch)
        found.append(hooks.count)
    assert found == [0, 0, 1, 2]


def test_by_hand():
    """From 0 to 10 with d = 1/10, then to 10 again with d = 2/11: 9, and 9 * 2/11 + 10 * 9/11."""
    module = tiny_network(10)
    with torch.no_grad():
        for part in module.parameters():
            part.zero_()
    hooks = hooks_of(module)
    with torch.no_grad():
        for part in module.parameters():
            part.fill_(10)
    found = []
    for _ in range(2):
        hooks.after_update(Processes())
        found.append(float(next(hooks.judged().parameters()).flatten()[0]))
    assert found == pytest.approx([9, 9 * 2 / 11 + 10 * 9 / 11])


def test_a_run_judges_the_average_of_its_epochs(tmp_path):
    """Without held-out images the last epoch is the best: the mean of the epochs 2 and 3."""
    config = {"plugin": ["seat"], "options": {"seat": {"average": "swa", "start": 1}}}
    folder = run(tiny(tmp_path, name="run", epochs=3, validation=0, **config)).folder
    checkpoints = sorted((folder / "checkpoints").glob("step-*"))
    second, third = (load_file(path / "weights.safetensors") for path in checkpoints[-2:])
    judged = load_file(folder / "weights-averaged.safetensors")
    name = next(name for name in judged if name.endswith("weight"))
    assert torch.allclose(judged[name], (second[name] + third[name]) / 2, rtol=0, atol=1e-7)
    assert not torch.equal(second[name], third[name])
