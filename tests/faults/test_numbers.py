"""F14, F15: gradients that are not finite, and memory that does not suffice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abatis import Attacked, Term, TrainerHooks
from abatis.cli import run as defense_run
from abatis.errors import OutOfMemoryError
from tests.helpers import plugin, tiny
from tests.test_runner import words


def root_of_zero(ctx):
    """Finite, with a gradient of 0 times infinity."""
    return {"root": Term((0 * ctx.logits_adv).square().sum(1).sqrt())}


def norm_of_zero(ctx):
    """The norm of an input gradient that is 0, differentiated once more."""
    x = ctx.batch.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((0 * ctx.net.frozen(x)).sum(), x, create_graph=True)
    return {"norm": Term(gradient.flatten(1).norm(dim=1))}


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
def test_f15_out_of_memory_names_the_phase_and_changes_no_batch(tmp_path, install, capsys, hooks, phase):
    install(plugin("large", **hooks))
    assert defense_run([*words(tiny(tmp_path)), "--plugin", "large"]) == OutOfMemoryError.exit_code == 5
    message = capsys.readouterr().err
    assert f"no memory left in the {phase}" in message
    assert "--accumulate" in message


class Hungry(nn.Module):
    """Forwards of more images than ``most`` find no memory."""

    def __init__(self, most):
        super().__init__()
        self.most, self.linear = most, nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1)) if len(x) <= self.most else no_memory()


def test_an_attacker_may_not_return_what_is_not_finite(tmp_path, install, capsys):
    def attacker(run):
        return lambda forward, batch: Attacked(batch.x * float("nan"))

    install(plugin("wild", attacker=attacker))
    assert defense_run([*words(tiny(tmp_path)), "--plugin", "wild"]) == 1
    assert "attacker 'wild' left the ball" in capsys.readouterr().err
