"""Recipes of released trainings hold the very values with which the reference steps were made."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from abatis.api.threat import parse_ratio
from abatis.config.command_line import parse_run
from abatis.config.run_config import RunConfig
from tests.reference import reference_dir
from tests.testing.test_trajectories import TRAININGS

RECIPES = {
    "amm": "amm/mnist-released",
    "at_awp": "awp/cifar10-preactresnet18-released",
    "at_emr": "emr/released-at",
    "at_emr_decayed": "emr/released-at",
    "average_margin_lr": "average-margin/mnist-linear-released",
    "average_margin_mlp": "average-margin/mnist-mlp-released",
    "gairat": "gairat/cifar10-resnet18-released",
    "gairat_burn_in": "gairat/cifar10-resnet18-released",
    "mail_at": "mail/cifar10-resnet18-released",
    "mail_at_burn_in": "mail/cifar10-resnet18-released",
    "mail_at_emr": "emr/released-mail-at",
    "mail_at_emr_burn_in": "emr/released-mail-burn-in",
    "mail_trades": "mail/cifar10-resnet18-trades-released",
    "mail_trades_burn_in": "mail/cifar10-resnet18-trades-released",
    "mail_trades_emr": "emr/released-mail-trades",
    "mail_trades_emr_burn_in": "emr/released-mail-burn-in",
    "mart": "mart/cifar10-resnet18",
    "pgd_at": "at/robust-overfitting",
    "trades": "trades/cifar10-wrn34-released",
    "trades_awp": "awp/cifar10-wrn34-trades-released",
    "trades_awp_warmup": "awp/cifar10-wrn34-trades-released",
    "trades_emr": "emr/released-trades",
}
EQUAL = {
    "beta": "trades.beta",
    "lambda": "emr.weight",
    "temperature": "emr.temperature",
    "decay": "emr.decay",
    "decay_epochs_from_1": "emr.decay_epochs",
    "slope": "mail.slope",
    "bias": "mail.bias",
    "burn_in_epochs": "mail.burn_in",
    "gamma": "awp.gamma",
    "warmup_epochs": "awp.warmup",
    "Lambda": "gairat.shift",
    "omega": "gairat.omega",
    "mu": "average-margin.weight",
    "tau": "average-margin.tau",
    "orthogonality": "average-margin.orthogonality",
    "clip_value": "amm.clip",
}
"""The options that the constants of most reference files are, by the constants' names."""
OTHERWISE = {
    "amm": {name: f"amm.{name}" for name in ("c", "d", "shrinkage", "aggregation", "top_fraction")}
    | {name: f"amm.{name}" for name in ("iterations", "candidates", "overshoot", "epsilon", "norm")}
    | {"lambda": "amm.weight"},
    "mart": {"beta": "mart.beta"},
    "gairat": {"burn_in_epochs": "gairat.burn_in"},
    "gairat_burn_in": {"burn_in_epochs": "gairat.burn_in"},
}
ABROAD = {"beta_official", "awp_warmup_official", "begin_epoch"}  # the same, as the authors count
FIRST_PHASE = {"slope", "bias", "burn_in_epochs", "beta"}  # of MAIL, not used in the first phase


def read_meta(training: str) -> dict[str, Any]:
    folder = reference_dir()
    path = folder / "golden" / "trajectories" / f"{training}.npz" if folder else None
    if path is None or not path.exists():
        pytest.skip("reference values are not here; set ABATIS_REFERENCE")
    with np.load(path) as file:
        meta: dict[str, Any] = json.loads(str(file["meta_json"]))
    return meta


def read_option(config: RunConfig, name: str):
    plugin, _, option = name.partition(".")
    value = getattr(config.options[plugin], option)
    return list(value) if isinstance(value, tuple) else value


def test_every_reference_training_has_a_recipe():
    assert RECIPES.keys() == TRAININGS.keys()


@pytest.mark.parametrize("training", RECIPES)
def test_the_constants_of_a_method(training):
    config, meta = parse_run(["--recipe", RECIPES[training]]), read_meta(training)
    assert set(config.plugin) == set(TRAININGS[training][0])
    names = EQUAL | OTHERWISE.get(training, {})
    asked = set(meta["method"]) - ABROAD
    if RECIPES[training] == "emr/released-mail-burn-in":
        asked -= FIRST_PHASE
    for constant in asked:
        assert read_option(config, names[constant]) == meta["method"][constant], constant


@pytest.mark.parametrize("training", RECIPES)
def test_attack_optimizer_and_statistics(training):
    config, meta = parse_run(["--recipe", RECIPES[training]]), read_meta(training)
    statistics = {key: list(words) for key, words in config.statistics if key != "first" and words}
    if training != "mail_trades_emr":  # whose order is the losses' own
        assert statistics == TRAININGS[training][1]
    assert config.statistics.first == "usual"
    optim = meta["optim"]
    assert {key: getattr(config.optim, key) for key in optim} == optim
    assert config.clip_grad == meta.get("clip_grad", 0)
    if "attack" not in meta:
        assert config.use == {"attacker": "none"}
        return
    norm, eps = meta["threat"]
    assert (config.threat_model.norm, config.threat_model.eps) == (norm, pytest.approx(eps, 1e-12))
    attack = meta["attack"]
    assert config.attack.steps == attack["steps"]
    assert parse_ratio(config.attack.step_size) == pytest.approx(attack["step_size"], 1e-12)
    assert (config.attack.start, config.attack.bn) == (attack["start"], attack["statistics"])
    on_kl = "trades" in config.plugin and config.use.get("attacker") != "pgd"
    assert on_kl == (attack["objective"] == "kl")
