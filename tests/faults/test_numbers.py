"""F14, F15: gradients that are not finite, and memory that does not suffice."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from abatis import Attacked, Term, TrainerHooks
from abatis.cli import run as defense_run
from abatis.errors import NotFiniteError, OutOfMemoryError
from tests.faults import train
from tests.helpers import plugin, tiny, write_tiny


def root_of_zero(ctx):
    """Finite, with a gradient of 0 times infinity."""
    return {"root": Term((0 * ctx.logits_adv).square().sum(1).sqrt())}


def norm_of_zero(ctx):
    """The input gradient of a norm that is 0: a number, until it is differentiated once more."""
    x = ctx.batch.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        (0 * ctx.net.frozen(x)).norm(dim=1).sum(), x, create_graph=True
    )
    return {"norm": Term(gradient.flatten(1).sum(1))}


@pytest.mark.parametrize("penalty", [root_of_zero, norm_of_zero])
def test_f14_a_finite_loss_with_a_gradient_that_is_not_stops_before_the_update(
    tmp_path, install, penalty
):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    seen = []

    def late(ctx):
        if ctx.step < 2:
            return {"zero": Term(0 * ctx.logits_adv.sum(1))}
        seen.append(network[1].weight.detach().clone())
        return penalty(ctx)

    install(plugin("rough", regularizer=lambda run: late))
    with pytest.raises(NotFiniteError, match=r"gradient of term 'rough/(root|norm)'") as caught:
        train(tmp_path, plugin=["rough"], ema=0, model=network)
    assert caught.value.exit_code == 4
    assert "step 2; the update was not made" in str(caught.value)
    assert torch.equal(seen[0], network[1].weight)


class Rough:
    """A penalty that is NaN at some steps and 0 at others; keeps the network of every step."""

    def __init__(self, *odd):
        self.odd, self.seen = odd, {}

    def __call__(self, ctx):
        state = ctx.net.module.state_dict()
        self.seen.setdefault(ctx.step, {name: tensor.clone() for name, tensor in state.items()})
        return {"odd": Term(ctx.logits_adv.sum(1) * (float("nan") if ctx.step in self.odd else 0))}


def test_f14_steps_may_be_left_out_as_many_in_a_row_as_is_said(tmp_path, install):
    rough = Rough(2, 3, 5)
    install(plugin("rough", regularizer=lambda run: rough))
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )
    folder = train(tmp_path, plugin=["rough"], ema=0, model=network, skip_nonfinite=2)
    for name in (
        "0.weight",
        "1.weight",
        "4.weight",
        "1.num_batches_tracked",
    ):  # each forward moves the statistics once
        assert torch.equal(rough.seen[3][name], rough.seen[2][name])
        assert torch.equal(rough.seen[4][name], rough.seen[2][name])
        assert not torch.equal(rough.seen[5][name], rough.seen[4][name])
    assert json.loads((folder / "not-finite.json").read_text())["step"] == 5


def test_f14_one_more_in_a_row_stops_the_run(tmp_path, install):
    install(plugin("rough", regularizer=lambda run: Rough(2, 3, 4)))
    with pytest.raises(NotFiniteError, match="step 4"):
        train(tmp_path, plugin=["rough"], ema=0, skip_nonfinite=2)


def no_memory(*arguments):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


class NoMemory(TrainerHooks):
    before_loss = no_memory


@pytest.mark.parametrize(
    ("hooks", "phase"),
    [
        ({"attacker": lambda run: no_memory}, "attack"),
        ({"loss": lambda run: no_memory}, "loss"),
        ({"regularizer": lambda run: no_memory}, "loss"),
        ({"trainer": lambda run: NoMemory()}, "loss"),
    ],
)
def test_f15_out_of_memory_names_the_phase_and_changes_no_batch(
    tmp_path, install, capsys, hooks, phase
):
    install(plugin("large", **hooks))
    assert (
        defense_run([*write_tiny(tiny(tmp_path)), "--plugin", "large"])
        == OutOfMemoryError.exit_code
        == 5
    )
    message = capsys.readouterr().err
    assert f"out of memory in the {phase}" in message
    assert "--accumulate" in message


class Hungry(nn.Module):
    """Forwards of more images than ``most`` find no memory."""

    def __init__(self, most):
        super().__init__()
        self.most, self.refused, self.linear = most, 0, nn.Linear(64, 10)

    def forward(self, x):
        if len(x) > self.most:
            self.refused += 1
            no_memory()
        return self.linear(x.flatten(1))


def test_f15_an_evaluation_takes_fewer_images_at_a_time_and_finds_the_same(tmp_path):
    records = []
    for most in (1000, 16):
        torch.manual_seed(0)
        network = Hungry(most)
        folder = train(
            tmp_path / str(most), ema=0, augment="none", batch_size=16, eval="quick", model=network
        )
        records.append(json.loads((folder / "eval.json").read_text()))
    assert network.refused
    assert records[0]["n"] == 38
    assert records[0]["per_point"] == records[1]["per_point"]


def test_an_attacker_may_not_return_what_is_not_finite(tmp_path, install, capsys):
    def attacker(run):
        return lambda forward, batch: Attacked(batch.x * float("nan"))

    install(plugin("wild", attacker=attacker))
    assert defense_run([*write_tiny(tiny(tmp_path)), "--plugin", "wild"]) == 1
    assert "attacker 'wild' left the ball" in capsys.readouterr().err
