"""Who provides what, what is a conflict, and which answers of plugins are refused."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import pytest
import torch
from pydantic import Field

from abatis import PluginConfig, Term, TrainerHooks, hookimpl
from abatis.errors import PluginConflict, PluginError, UsageError
from abatis.nets.net import Net
from abatis.testing import loss_terms, plan_of, tiny_network, total
from abatis.train.term_checks import check_terms
from tests.helpers import plugin


class Weighted(PluginConfig):
    neutral = {"weight": 0}
    weight: float = Field(1.0, ge=0, description="factor")


def loss_plugin(name, value=1.0):
    def loss(run):
        return lambda ctx: {name: Term(torch.full((len(ctx.batch),), value))}

    return plugin(name, loss=loss)


def plan(*plugins, **arguments):
    return plan_of(*plugins, net=Net(tiny_network(10)), num_classes=10, **arguments)


def terms(*plugins, **options):
    z = torch.zeros(4, 10)
    return loss_terms(
        *plugins, logits_clean=z, logits_adv=z, y=torch.zeros(4, dtype=torch.int64), **options
    )


def test_without_plugins_the_built_ins_answer():
    made = plan()
    assert (made.attacker_name, made.loss_name, made.regularizers, made.trainers) == (
        "pgd",
        "cross-entropy",
        (),
        (),
    )
    assert set(terms()) == {"ce"}


def test_mart_and_emr_give_the_terms_of_both():
    made = plan("emr", "mart")
    assert (made.loss_name, [name for name, _ in made.regularizers]) == ("mart", ["emr"])
    assert made.clean_first
    assert made.needs_double_backward


def test_two_losses_conflict_and_the_error_shows_the_way_out():
    with pytest.raises(PluginConflict) as caught:
        plan(loss_plugin("one"), loss_plugin("two"))
    assert "one, two" in str(caught.value)
    assert "--use loss=one" in str(caught.value)
    assert "--use loss=two" in str(caught.value)


def test_use_chooses_and_the_other_loss_takes_its_attacker_with_it():
    both = loss_plugin("both")
    both.defense_attacker = hookimpl(lambda run: lambda forward, batch: None)
    made = plan(both, loss_plugin("one"), use={"loss": "one"})
    assert (made.loss_name, made.attacker_name) == ("one", "pgd")
    named = plan(both, loss_plugin("one"), use={"loss": "one", "attacker": "both"})
    assert named.attacker_name == "both"
    assert plan(both, use={"loss": "cross-entropy"}).attacker_name == "pgd"
    assert plan(both, use={"attacker": "none"}).attacker_name == "none"


@pytest.mark.parametrize("use", [{"loss": "ohne"}, {"attacker": "one"}])
def test_use_refuses_who_provides_nothing(use):
    with pytest.raises(UsageError):
        plan(loss_plugin("one"), use=use)


def test_an_answer_of_none_is_no_answer():
    made = plan(plugin("shy", loss=lambda run: None), loss_plugin("one"))
    assert made.loss_name == "one"


def test_a_plugin_that_provides_no_loss_keeps_its_attacker():
    attack = plugin("attack", loss=lambda run: None, attacker=lambda run: lambda forward, batch: 0)
    made = plan(attack)
    assert (made.loss_name, made.attacker_name) == ("cross-entropy", "attack")


def test_the_order_of_the_plugins_changes_nothing():
    a = plugin("a", regularizer=lambda run: lambda ctx: {"r": Term(torch.tensor(0.1))})
    b = plugin("b", regularizer=lambda run: lambda ctx: {"r": Term(torch.tensor(0.2))})
    first, second = terms(a, b, loss_plugin("one")), terms(loss_plugin("one"), b, a)
    assert list(first) == list(second) == ["one", "a/r", "b/r"]
    assert total(first).item() == total(second).item()


def wrapper(name, factor, **marks):
    def loss(run):
        inner = yield
        return lambda ctx: {key: Term(term.value * factor + 1) for key, term in inner(ctx).items()}

    module = ModuleType(name)
    module.defense_loss = hookimpl(wrapper=True, **marks)(loss)
    return module


def test_wrappers_go_around_the_chosen_loss_tryfirst_outermost():
    found = terms(wrapper("a", 10, tryfirst=True), wrapper("b", 2), loss_plugin("one", 3.0))
    assert found["one"].value.tolist() == [(3 * 2 + 1) * 10 + 1] * 4
    assert terms(wrapper("a", 2))["ce"].value.tolist() == pytest.approx(
        [2 * torch.log(torch.tensor(10.0)).item() + 1] * 4
    )


def test_a_hook_is_asked_once():
    asked = []

    def loss(run):
        asked.append("loss")
        return lambda ctx: {"x": Term(torch.zeros(4))}

    plan(plugin("one", loss=loss), wrapper("a", 1))
    assert asked == ["loss"]


def test_a_neutral_plugin_adds_no_callable():
    made = plan(
        plugin(
            "off",
            config=lambda: Weighted,
            regularizer=lambda run: pytest.fail("a neutral plugin was asked"),
        ),
        options={"weight": 0},
    )
    assert made.regularizers == ()
    assert [row.role for row in made.rows if row.provider == "off"] == ["unused"]


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        ({"x": Term(torch.zeros(3))}, "shape (3,)"),
        ({"x": Term(torch.zeros(4, 1))}, "shape (4, 1)"),
        ({"x": torch.zeros(4)}, "not a Term"),
        ({"x": Term(torch.zeros(4, dtype=torch.int64))}, "not a Term"),
        ({"x": Term(torch.zeros(4), weight=float("nan"))}, "weight is nan"),
        (torch.zeros(4), "instead of named terms"),
        ({}, "instead of named terms"),
    ],
)
def test_a_term_of_the_wrong_shape_is_named(made, complaint):
    context = SimpleNamespace(batch=range(4))
    with pytest.raises(PluginError, match="'mine'") as caught:
        check_terms(made, context, "mine")
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


def test_a_scalar_term_is_legal():
    check_terms({"x": Term(torch.tensor(1.0))}, SimpleNamespace(batch=range(4)), "mine")


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (plugin("typo", losss=lambda run: None), "defense_loss"),
        (plugin("extra", loss=lambda run, epoch: None), "epoch"),
        (plugin("raises", loss=lambda run: 1 / 0), "ZeroDivisionError"),
        (plugin("config", config=lambda: dict), "PluginConfig"),
        (plugin("trainer", trainer=lambda run: object()), "TrainerHooks"),
    ],
)
def test_a_broken_plugin_is_named(broken, complaint):
    with pytest.raises(PluginError, match=broken.__name__) as caught:
        plan(broken)
    assert complaint in str(caught.value)


def test_an_exception_in_a_loss_names_plugin_and_line():
    with pytest.raises(PluginError, match="plugin 'bad' failed in its loss: KeyError") as caught:
        terms(plugin("bad", loss=lambda run: lambda ctx: {}["x"]))
    assert "test_plan.py" in str(caught.value)


def test_trainer_hooks_are_collected():
    made = plan(plugin("hook", trainer=lambda run: TrainerHooks()))
    assert [name for name, _ in made.trainers] == ["hook"]


@pytest.mark.parametrize("hook", ["attacker", "loss", "regularizer", "adaptive_attack"])
def test_an_answer_that_cannot_be_called_is_refused_before_the_first_step(hook):
    with pytest.raises(PluginError, match=f"'odd': defense_{hook} returned 5") as caught:
        plan(plugin("odd", **{hook: lambda run: 5}))
    assert __file__ in caught.value.where
