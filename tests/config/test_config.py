"""The configuration: exact radii, one vocabulary, and errors that name the option."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w

from abatis import RunConfig
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
    ],
)
def test_bad_options_are_named(raw, complaint):
    with pytest.raises(UsageError) as caught:
        RunConfig.model_validate(raw)
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


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
