"""Recipes: whole settings that a plugin ships, every value with its source."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from abatis.cli import main
from abatis.config.command_line import parse_run
from abatis.config.recipes import list_recipes
from abatis.errors import UsageError
from tests.helpers import our_plugins

CORE = list_recipes("at")
RECIPES = CORE | {
    recipe: path for name in our_plugins() for recipe, path in list_recipes(name).items()
}


def test_there_are_recipes_of_every_method():
    assert {recipe.partition("/")[0] for recipe in RECIPES} == {"at", *our_plugins()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_understood_and_every_value_is_marked(recipe):
    config = parse_run(["--recipe", recipe])
    assert recipe in CORE or recipe.partition("/")[0] in config.plugin
    for line in RECIPES[recipe].read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith(("#", "plugin")):
            assert re.search(r"# (paper|code|ours)\b", line), line


def test_a_recipe_lies_below_the_file_and_the_command_line(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("epochs = 5\n[emr]\nweight = 1\n")
    config = parse_run(
        ["--recipe", "emr/cifar10-wrn34", "--config", str(file), "--emr.decay", "0.5"]
    )
    emr = config.options["emr"]
    assert (config.threat, config.epochs, emr.weight, emr.decay, emr.temperature) == (
        "Linf:0.0314",
        5,
        1,
        0.5,
        40,
    )


@pytest.mark.parametrize("name", ["emr/cifar10-wrn3", "emrr/cifar10-wrn34", "emr"])
def test_an_unknown_recipe_is_named(name):
    with pytest.raises(UsageError, match="unknown recipe"):
        parse_run(["--recipe", name])


def test_an_unknown_recipe_of_a_known_plugin_is_answered_with_its_recipes():
    with pytest.raises(UsageError) as caught:
        parse_run(["--recipe", "at/small"])
    assert caught.value.fix == "the recipes of at are at/large-apgd2, at/large"


def test_a_wheel_holds_the_built_in_recipes(tmp_path):
    code = f"import hatchling.build as b; print(b.build_wheel({str(tmp_path)!r}))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("abatis/config/at/recipes/")}
    assert held == {f"abatis/config/at/recipes/{path.name}" for path in CORE.values()}


def test_the_registry_lists_the_recipes(capsys):
    assert main(["registry", "show", "emr"]) == 0
    assert "emr/cifar10-wrn34" in capsys.readouterr().out


def test_the_learning_rate_of_a_released_schedule():
    """ResNet-18 script of MART: 0.01 until epoch 74, then 0.001, 0.0001 from epoch 90, 0.00001 from
    epoch 100; epochs are counted from 1.
    """
    from abatis.train.optimizer import schedule_rate

    config, per_epoch = parse_run(["--recipe", "mart/cifar10-resnet18"]), 390
    rates = [
        schedule_rate(config.optim, (epoch - 1) * per_epoch, 120 * per_epoch)
        for epoch in (74, 75, 89, 90, 99, 100)
    ]
    assert rates == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001])
