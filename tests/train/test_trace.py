"""The contract's version, hooks on their way out, and ``--trace``."""

from __future__ import annotations

import warnings

import pytest
import torch

from abatis import PluginConfig, Term, TrainerHooks, hookimpl
from abatis.api import hooks
from abatis.cli import run as defense_run
from abatis.config import discovery
from abatis.errors import PluginError
from tests.helpers import plugin

ARGUMENTS = "--backbone cnn --data digits --dry-run".split()  # noqa: SIM905


def loss(run):
    return lambda ctx: {"x": Term(ctx.logits_adv.logsumexp(1))}


def of_version(version):
    module = plugin("mine", loss=loss)
    module.DEFENSE_API = version
    return module


@pytest.mark.parametrize("version", ["1", "1.0", "1.9", 1.0])
def test_any_minor_version_of_the_same_major_one_will_do(version):
    assert discovery.make_plugin("mine", of_version(version)).name == "mine"


@pytest.mark.parametrize("version", ["0.9", "2.0", "10.0", "", "one", "1.x"])
def test_another_major_version_and_what_is_none_are_refused_by_name(version):
    with pytest.raises(PluginError, match=r"'mine'.*DEFENSE_API"):
        discovery.make_plugin("mine", of_version(version))


def test_a_hook_of_a_newer_minor_version_asks_for_a_newer_core():
    module = of_version("1.7")
    module.defense_sampler = hookimpl(lambda run: None)
    with pytest.raises(PluginError) as caught:
        discovery.make_plugin("mine", module)
    assert "unknown hook 'defense_sampler'" in str(caught.value)
    assert f"written for DEFENSE_API 1.7, this core has {hooks.DEFENSE_API}: update abatis" in str(
        caught.value
    )


def told_of(module):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        discovery.make_plugin(module.__name__, module)
    return told


@pytest.fixture
def outdated(monkeypatch):
    """A core in which one hook, and one argument of another, are on their way out."""

    def defense_old(run):
        pass

    def defense_other(run, pace):
        pass

    gone = FutureWarning("defense_old goes with DEFENSE_API 2.0; write defense_loss instead")
    less = FutureWarning("the argument 'pace' goes with DEFENSE_API 2.0; write run.epochs instead")
    monkeypatch.setattr(
        hooks, "defense_old", hooks.hookspec(warn_on_impl=gone)(defense_old), raising=False
    )
    spec = hooks.hookspec(warn_on_impl_args={"pace": less})(defense_other)
    monkeypatch.setattr(hooks, "defense_other", spec, raising=False)


@pytest.mark.usefixtures("outdated")
def test_an_outdated_hook_or_argument_is_told_with_the_plugin_the_line_and_what_to_write_instead():
    def other(run, pace):
        return None

    (warning,) = told_of(plugin("mine", old=lambda run: None))
    assert (
        str(warning.message)
        == "plugin 'mine': defense_old goes with DEFENSE_API 2.0; write defense_loss instead"
    )
    (warning,) = told_of(plugin("mine", other=other))
    assert (
        str(warning.message)
        == "plugin 'mine': the argument 'pace' goes with DEFENSE_API 2.0; write run.epochs instead"
    )
    assert (warning.filename, warning.lineno) == (__file__, other.__code__.co_firstlineno)
    assert not told_of(plugin("mine", loss=loss, other=lambda run: None))


@pytest.mark.usefixtures("outdated")
def test_a_run_tells_it_once_and_goes_on(install, recwarn):
    install(plugin("mine", old=lambda run: None, loss=loss))
    assert defense_run([*ARGUMENTS, "--plugin", "mine", "--quiet"]) == 0
    assert len([one for one in recwarn if "'mine'" in str(one.message)]) == 1


class Scaled(PluginConfig):
    neutral = {"on": False}
    on: bool = True


@hookimpl(wrapper=True)
def wrapped(run):
    inner = yield
    return lambda ctx: inner(ctx)


class Counting(TrainerHooks):
    def after_update(self, ctx):
        pass


def lines_of(capsys, *words):
    code = defense_run([*ARGUMENTS, "--trace", *words])
    said = capsys.readouterr()
    return (
        code,
        [
            line.removeprefix("trace: ")
            for line in said.out.splitlines()
            if line.startswith("trace: ")
        ],
        said.err,
    )


def test_trace_says_who_was_asked_what_was_answered_and_what_is_called(install, capsys):
    torch.manual_seed(0)
    around = plugin("around")
    around.defense_loss = wrapped
    install(
        plugin("base", loss=loss, attacker=lambda run: None),
        around,
        plugin("off", config=lambda: Scaled, loss=loss),
        plugin("count", trainer=lambda run: Counting()),
    )
    names = ("base", "around", "off", "count")
    code, lines, _ = lines_of(
        capsys, *(f"--plugin={name}" for name in names), "--no-off.on", "--ema"
    )
    assert code == 0
    here = __name__
    assert lines == [
        f"defense_config asked off: {here}.Scaled",
        "off is switched off by its options, and asked nothing more",
        f"defense_loss asked base: {here}.loss.<locals>.<lambda>",
        "defense_attacker asked base: nothing",
        f"defense_loss asked around (wrapper), the chosen loss: {here}.wrapped.<locals>.<lambda>",
        f"defense_trainer asked count: {here}.Counting",
        "calls attacker of pgd: abatis.train.builtin.pgd.PGDAttacker",
        f"calls loss of base: {here}.wrapped.<locals>.<lambda>",
        f"calls after_update of count: {here}.Counting",
        "calls after_update of averaging: abatis.train.builtin.averaging.WeightAveraging",
        "calls judged of averaging: abatis.train.builtin.averaging.WeightAveraging",
    ]


def test_trace_says_what_went_before_a_conflict_or_a_failure(install, capsys):
    install(plugin("one", loss=loss), plugin("two", loss=lambda run: 1 / 0))
    code, lines, error = lines_of(capsys, "--plugin=one", "--plugin=two")
    assert code == 1
    assert lines[-1] == "defense_loss asked two: ZeroDivisionError: division by zero"
    assert "'two'" in error
