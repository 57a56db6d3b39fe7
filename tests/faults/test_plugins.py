"""F17: plugins that misbehave are named before the first update, and disturb no other run."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from abatis import Attacked, Term, TrainerHooks, hookimpl
from abatis.cli import run as defense_run
from abatis.errors import PluginError
from tests.faults import train
from tests.helpers import plugin, tiny, write_tiny


def value(ctx):
    return {"x": Term(ctx.logits_adv.logsumexp(1))}


def writes_images(ctx):
    ctx.batch.x.mul_(0.5)
    return value(ctx)


def writes_labels(ctx):
    ctx.batch.y[0] = 0
    return value(ctx)


def writes_adversarial_images(ctx):
    ctx.x_adv.clamp_(0.1, 0.9)
    return value(ctx)


def leaves_eval_mode(ctx):
    terms = value(ctx)
    ctx.net.module.eval()
    return terms


def leaves_gradients(ctx):
    ctx.net(ctx.batch.x).sum().backward()
    return value(ctx)


def freezes(ctx):
    terms = value(ctx)
    next(ctx.net.module.parameters()).requires_grad_(False)
    return terms


def writes_weights(ctx):
    with torch.no_grad():
        next(ctx.net.module.parameters()).mul_(2)
    return value(ctx)


LOSSES = {
    "images": (writes_images, "changed the images"),
    "labels": (writes_labels, "changed the labels"),
    "adversarial": (writes_adversarial_images, "changed the adversarial_images"),
    "mode": (leaves_eval_mode, "changed the mode of the network"),
    "gradients": (leaves_gradients, "changed the gradient of"),
    "freezes": (freezes, "changed requires_grad of"),
    "weights": (writes_weights, "changed the values of"),
    "matrix": (lambda ctx: {"x": Term(ctx.logits_adv)}, "the shape (32, 10)"),
    "three": (lambda ctx: {"x": Term(ctx.logits_adv.sum(1)[:3])}, "the shape (3,)"),
    "detached": (
        lambda ctx: {"x": Term(ctx.logits_adv.detach().sum(1))},
        "do not depend on the network",
    ),
    "integers": (lambda ctx: {"x": Term(ctx.batch.y)}, "floating-point"),
    "bare": (lambda ctx: ctx.logits_adv.sum(), "named terms"),
    "nothing": (lambda ctx: None, "named terms"),
    "infinite": (
        lambda ctx: {"x": Term(ctx.logits_adv.sum(1), weight=float("inf"))},
        "weight is inf",
    ),
    "raises": (lambda ctx: 1 / 0, "ZeroDivisionError"),
    "exits": (lambda ctx: sys.exit(0), "SystemExit"),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("role", ["loss", "regularizer"])
def test_f17_a_loss_or_penalty_that_breaks_its_promises_is_named_at_the_first_step(
    tmp_path, install, name, role
):
    function, complaint = LOSSES[name]
    install(plugin("rogue", **{role: lambda run: function}))
    with pytest.raises(PluginError) as caught:
        train(tmp_path, plugin=["rogue"])
    text = str(caught.value)
    assert "'rogue'" in text
    assert complaint in text
    assert len(text.splitlines()) <= 4
    assert not (tmp_path / "r" / "checkpoints").exists()


def in_place(forward, batch):
    batch.x.clamp_(0.1, 0.9)
    return Attacked(batch.x.clone())


def training_mode(forward, batch):
    forward.module.train()
    return Attacked(batch.x.clone())


ATTACKERS = {
    "images": (in_place, "changed the images"),
    "mode": (training_mode, "changed the mode of the network"),
    "outside": (lambda forward, batch: Attacked(batch.x + 0.5), "left the ball"),
    "attached": (lambda forward, batch: Attacked(batch.x.clone().requires_grad_()), "detached"),
    "tensor": (lambda forward, batch: batch.x, "returned Tensor"),
    "half": (lambda forward, batch: Attacked(batch.x[:1]), "returned (1,"),
    "info": (
        lambda forward, batch: Attacked(batch.x.clone(), {"steps": batch.y[:2]}),
        "info 'steps'",
    ),
    "raises": (lambda forward, batch: batch.nothing, "AttributeError"),
}


@pytest.mark.parametrize("name", ATTACKERS)
def test_f17_an_attacker_that_breaks_its_promises_is_named_at_the_first_step(
    tmp_path, install, name
):
    function, complaint = ATTACKERS[name]
    install(plugin("rogue", attacker=lambda run: function))
    with pytest.raises(PluginError) as caught:
        train(tmp_path, plugin=["rogue"])
    assert "'rogue'" in str(caught.value)
    assert complaint in str(caught.value)


class Hooks(TrainerHooks):
    def __init__(self, name, act):
        setattr(self, name, act)


@pytest.mark.parametrize("hook", ["transform_batch", "before_loss", "after_update"])
def test_f17_a_trainer_hook_that_leaves_eval_mode_is_named(tmp_path, install, hook):
    def trainer(run):
        def act(first, *rest):
            run.net.module.eval()
            return first

        return Hooks(hook, act)

    install(plugin("rogue", trainer=trainer))
    with pytest.raises(
        PluginError, match=f"'rogue' changed the mode of the network.* in its {hook}"
    ):
        train(tmp_path, plugin=["rogue"])


def misspelt():
    module = ModuleType("rogue")
    module.defense_regulariser = hookimpl(lambda run: value)
    return module


def of_another_api():
    module = plugin("rogue", loss=lambda run: value)
    module.DEFENSE_API = "2.0"
    return module


def hook_that_raises():
    return plugin("rogue", config=lambda: 1 / 0)


def hook_with_another_argument():
    return plugin("rogue", loss=lambda run, extra: value)


LOADING = {
    "misspelt": (misspelt, "did you mean 'defense_regularizer'"),
    "api": (of_another_api, "DEFENSE_API 2.0"),
    "config": (hook_that_raises, "ZeroDivisionError"),
    "argument": (hook_with_another_argument, "extra"),
    "options": (lambda: plugin("rogue", config=lambda: dict), "not a subclass of PluginConfig"),
    "import": (lambda: ImportError("no module named 'missing'"), "missing"),
    "exit": (lambda: SystemExit(0), "SystemExit"),
}


@pytest.mark.parametrize("name", LOADING)
def test_f17_a_plugin_that_cannot_be_loaded_is_named_and_blocks_no_other(
    tmp_path, install, capsys, name
):
    made, complaint = LOADING[name]
    module = made()
    fine = plugin("fine", loss=lambda run: value)
    if isinstance(module, ModuleType):
        install(fine, module)
    else:
        install(fine, rogue=module)
    assert defense_run([*write_tiny(tiny(tmp_path)), "--plugin", "rogue"]) == 1
    message = capsys.readouterr().err
    assert "'rogue'" in message
    assert complaint in message
    assert "Traceback" not in message
    assert train(tmp_path, plugin=["fine"], epochs=1).exists()


def test_f17_one_call_is_looked_at_and_the_run_is_as_without(tmp_path, install):
    """A plugin that keeps the contract runs; terms of zeros may be ones that begin later."""

    def warms_up(ctx):
        return {
            "late": Term(
                torch.zeros(len(ctx.batch)) if ctx.epoch == 0 else ctx.logits_adv.square().sum(1)
            )
        }

    install(plugin("slow", regularizer=lambda run: warms_up))
    assert train(tmp_path, plugin=["slow"]).exists()


def test_transforms_may_return_other_batches(tmp_path, install):
    def trainer(run):
        return Hooks("transform_batch", lambda batch: replace(batch, x=1 - batch.x))

    install(plugin("negative", trainer=trainer))
    assert train(tmp_path, plugin=["negative"], epochs=1).exists()
