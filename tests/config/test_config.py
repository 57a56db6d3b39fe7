"""The configuration: exact radii, one vocabulary, and errors that name the option."""

from __future__ import annotations

import json
import tomllib
from typing import Literal

import numpy as np
import pytest
import tomli_w
from pydantic import ValidationError

from abatis import PluginConfig, RunConfig
from abatis.api.threat import Threat
from abatis.errors import UsageError


def test_eps_stays_as_written_and_exact():
    threat = RunConfig(threat="linf:8/255").threat_model
    assert (threat.norm, threat.eps, str(threat)) == ("Linf", 8 / 255, "Linf:8/255")
    assert RunConfig().attack.step(threat) == pytest.approx(2 / 255, rel=1e-15)
    assert RunConfig(attack={"step-size": "0.007"}).attack.step(threat) == 0.007


@pytest.mark.parametrize(
    "text", ["Linf:8", "Lonf:8/255", "8/255", "Linf:", "Linf:a/b", "Linf:1/0", "L2:-1", "Linf:nan"]
)
def test_a_bad_threat_is_refused_with_a_way_out(text):
    with pytest.raises(UsageError, match="threat") as caught:
        Threat.parse(text)
    assert "fix:" in str(caught.value)


def test_plugin_options_are_tables_of_the_plugins_own_class():
    config = RunConfig(plugin=["mart", "emr"], emr={"weight": 1})
    assert config.plugin == ("emr", "mart")
    assert config.options["emr"].weight == 1
    assert config.options["mart"].beta == 6
    assert config == RunConfig(plugin=["emr", "mart"], options={"emr": {"weight": 1}})


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({"epohcs": 3}, "did you mean 'epochs'"),
        ({"optim": {"lrr": 3}}, "did you mean 'lr'"),
        ({"plugin": ["emr"], "emr": {"wieght": 1}}, "emr.wieght"),
        ({"plugin": ["emr"], "emr": {"weight": -1}}, "emr.weight"),
        ({"plugin": ["emrr"]}, "did you mean 'emr'"),
        ({"emr": {"weight": 1}}, "emr"),
        ({"epochs": 0}, "epochs"),
        ({"name": "../x"}, "name"),
        ({"name": "a..b"}, "name"),
        ({"use": {"losss": "x"}}, "did you mean 'loss'"),
        ({"attack": {"bn": "both"}}, "attack.bn"),
        ({"attack": {"step_size": "-1"}}, "step_size"),
        ({"attack": {"step_size": 2}}, "--attack.step-size 2: a step of 2 leads out of [0, 1]"),
        ({"attack": {"step_size": "15"}, "threat": "L2:0.5"}, "did you mean 15/255?"),
        ({"epochs": True}, "epochs must be a whole number, not True"),
        ({"limit": True}, "limit must be a whole number, not True"),
        ({"clip_grad": False}, "clip_grad must be a number, not False"),
        ({"optim": {"lr": True}}, "optim.lr must be a number, not True"),
        ({"optim": {"betas": [True, 0.9]}}, "value 1 of optim.betas must be a number, not True"),
        ({"plugin": ["emr"], "emr": {"weight": True}}, "emr.weight must be a number, not True"),
        ({"batch-size": 32, "batch_size": 64}, "'batch-size' and 'batch_size' are two spellings"),
        ({"batch_size": 64, "batch-size": 64}, "'batch_size' and 'batch-size' are two spellings"),
        ({"attack": {"step-size": 0.1, "step_size": 0.1}}, "'step-size' and 'step_size'"),
        (
            {"plugin": ["emr"], "emr": {"decay-epochs": [5], "decay_epochs": [5]}},
            "'decay-epochs' and 'decay_epochs'",
        ),
        (
            {"plugin": ["emr"], "emr": {"weight": 1}, "options": {"emr": {"weight": 2}}},
            "the options of plugin 'emr' are given twice",
        ),
    ],
)
def test_bad_options_are_named(raw, complaint):
    with pytest.raises(UsageError) as caught:
        RunConfig.model_validate(raw)
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


class Numbers(PluginConfig):
    """Numbers at every depth, and booleans beside them."""

    many: tuple[float, ...] = ()
    named: dict[str, int] = {}
    maybe: int | None = None
    either: bool | int = 0
    word: int | str = 0
    choice: Literal[1, 2] = 1
    switch: bool = False


@pytest.mark.parametrize(
    "raw",
    [
        {"many": [1.0, True]},
        {"named": {"a": True}},
        {"maybe": False},
        {"word": True},
        {"choice": True},
    ],
)
def test_no_boolean_becomes_a_number(raw):
    with pytest.raises(ValidationError, match="should be a valid"):
        Numbers(**raw)
    with pytest.raises(ValidationError, match="should be a valid"):
        Numbers.model_validate_json(json.dumps(raw))


def test_no_boolean_of_numpy_becomes_a_number():
    for raw in ({"many": [np.True_]}, {"maybe": np.False_}):
        with pytest.raises(ValidationError, match="should be a valid"):
            Numbers(**raw)
    with pytest.raises(UsageError):
        RunConfig(epochs=np.True_)


def test_booleans_and_numbers_stay_what_they_are():
    given = Numbers(either=True, switch=True, many=(1, "2.5"), maybe=3)
    assert given.either is True
    assert given.switch is True
    assert (given.many, given.maybe) == ((1.0, 2.5), 3)
    assert RunConfig(ema=True).ema == 0.999
    assert RunConfig(pretrained=True).pretrained is True


@pytest.mark.parametrize(("threat", "step"), [("Linf:8/255", 1), ("L2:0.5", 1), ("L2:2", 4)])
def test_the_largest_step_sizes(threat, step):
    """An L2 step may be as long as the ball is wide, and as long as one pixel's range."""
    assert RunConfig(threat=threat, attack={"step_size": step}).attack.step_size == str(step)


def test_toml_repeats_the_configuration():
    config = RunConfig(
        plugin=["emr"],
        emr={"decay_epochs": [5]},
        threat="L2:0.5",
        ema=True,
        use={"attacker": "none"},
    )
    again = RunConfig(**tomllib.loads(tomli_w.dumps(config.to_toml())))
    assert again == config


def test_a_configuration_cannot_be_changed_after_it_was_checked():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().epochs = 3


def test_bounds_are_part_of_every_sentence():
    assert (
        "[>= 0]"
        in type(RunConfig(plugin=["emr"]).options["emr"]).model_fields["weight"].description
    )
    assert "[> 0, <= 1000]" in type(RunConfig().optim).model_fields["lr"].description
