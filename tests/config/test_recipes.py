"""Recipes: whole settings that a plugin ships, every value with its source."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abatis.cli import main
from abatis.config.command_line import parse_run
from abatis.config.recipes import list_recipes
from abatis.errors import UsageError
from tests.helpers import our_plugins

CORE = list_recipes("at")
RECIPES = CORE | {
    recipe: path for name in our_plugins() for recipe, path in list_recipes(name).items()
}
SOURCES = sorted({path.parents[1] / "sources.toml" for path in RECIPES.values()})
RELEASED = {
    "amm/mnist-released",
    "at/robust-overfitting",
    "average-margin/mnist-cnn-released",
    "average-margin/mnist-linear-released",
    "average-margin/mnist-mlp-released",
    "awp/cifar10-preactresnet18-released",
    "awp/cifar10-wrn34-trades-released",
    "emr/released-at",
    "emr/released-mail-at",
    "emr/released-mail-burn-in",
    "emr/released-mail-trades",
    "emr/released-trades",
    "gairat/cifar10-resnet18-released",
    "mail/cifar10-resnet18-released",
    "mail/cifar10-resnet18-trades-released",
    "mart/cifar10-resnet18",
    "mart/cifar10-wrn34",
    "trades/cifar10-wrn34-released",
}
ENTRY = re.compile(r"(?P<name>[\w-]+) = (?P<value>.+?)  # (?P<kind>paper|code|ours)\b")


def read_recipe(text: str) -> dict[str, tuple[Any, str]]:
    """Every value of a recipe and what it says of its source, by dotted name."""
    found, table = {}, ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[([\w.-]+)\]", line):
            table = f"{header[1]}."
        elif line and not line.startswith(("#", "plugin = ")):
            entry = ENTRY.match(line)
            assert entry, f"says nothing about its source: {line}"
            value = tomllib.loads(f"value = {entry['value']}")["value"]
            found[f"{table}{entry['name']}"] = (value, entry["kind"])
    return found


def read_sources(file: Path) -> dict[str, dict[str, Any]]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def find_wrong_sources(recipe: dict[str, tuple[Any, str]], table: dict[str, Any]) -> list[str]:
    """Where a recipe and its table of sources say different things."""
    claimed = {name: [*both] for name, both in recipe.items() if both[1] != "ours"}
    listed = {name: entry[:2] for name, entry in table.items() if name != "source"}
    wrong = [
        f"{name}: the recipe has {claimed.get(name)}, sources.toml {listed.get(name)}"
        for name in sorted({*claimed, *listed})
        if claimed.get(name) != listed.get(name)
    ]
    vague = [name for name, entry in table.items() if name != "source" and not entry[2:] > [""]]
    return wrong + [f"{name}: sources.toml names no place" for name in vague]


def test_there_are_recipes_of_every_method():
    assert {recipe.partition("/")[0] for recipe in RECIPES} == {"at", *our_plugins()}


def test_the_released_trainings_have_recipes():
    assert RECIPES.keys() >= RELEASED


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_understood_and_every_value_has_its_source(recipe):
    config = parse_run(["--recipe", recipe])
    assert recipe in CORE or recipe.partition("/")[0] in config.plugin
    path = RECIPES[recipe]
    values = read_recipe(path.read_text(encoding="utf-8"))
    file = path.parents[1] / "sources.toml"
    table = read_sources(file).get(path.stem, {}) if file.exists() else {}
    assert find_wrong_sources(values, table) == []
    assert table.get("source") or all(kind == "ours" for _, kind in values.values())


@pytest.mark.parametrize("file", [file for file in SOURCES if file.exists()], ids=str)
def test_a_table_of_sources_is_of_recipes_that_exist(file):
    assert read_sources(file).keys() <= {path.stem for path in (file.parent / "recipes").iterdir()}


def test_a_wrong_source_is_found():
    table = {"source": "a script", "epochs": [5, "code", "--epochs"], "optim.lr": [0.1, "code", ""]}
    recipe = read_recipe('plugin = ["x"]\nepochs = 6  # code: note\n\n[optim]\nlr = 0.1  # ours\n')
    assert recipe == {"epochs": (6, "code"), "optim.lr": (0.1, "ours")}
    assert find_wrong_sources(recipe, table) == [
        "epochs: the recipe has [6, 'code'], sources.toml [5, 'code']",
        "optim.lr: the recipe has None, sources.toml [0.1, 'code']",
        "optim.lr: sources.toml names no place",
    ]
    with pytest.raises(AssertionError, match="says nothing about its source"):
        read_recipe("epochs = 6\n")


ON_SMALL_IMAGES = ["--auto-augment=", "--erasing", "0"]  # where a recipe asks for --data folder:


def dry_run(recipe, *words):
    others = ON_SMALL_IMAGES if recipe.startswith(("at/large", "convstem/")) else []
    asked = ["run", "--recipe", recipe, "--no-pretrained", "--dry-run", *others, *words]
    assert main(asked) == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_dry_runs_without_data(recipe, tmp_path, monkeypatch, capsys):
    """On a small net, where its own is for CIFAR-10 or for larger images."""
    monkeypatch.chdir(tmp_path)
    small = [] if 'backbone = "mnist' in RECIPES[recipe].read_text() else ["--backbone=resnet8"]
    small += ["--convstem.other=keep"] if "convstem" in recipe else []
    dry_run(recipe, *small)
    assert "backbone" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_dry_runs_on_its_own_net(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "swin" not in RECIPES[recipe].read_text():
        return dry_run(recipe)
    draw = np.random.default_rng(0)  # nets of fixed size take image files alone
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "images" / place).mkdir(parents=True)
        pixels = draw.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / place / "0.png")
    dry_run(recipe, "--data", "folder:images", "--batch-size", "2")


def test_a_recipe_lies_below_the_file_and_the_command_line(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("epochs = 5\n[emr]\nweight = 1\n")
    config = parse_run(["--recipe", "emr/released-at", "--config", str(file), "--emr.decay", "0.5"])
    emr = config.options["emr"]
    assert (config.threat, config.epochs, emr.weight, emr.decay, emr.temperature) == (
        "Linf:0.0314",
        5,
        1,
        0.5,
        40,
    )


@pytest.mark.parametrize("name", ["emr/released-a", "emrr/released-at", "emr"])
def test_an_unknown_recipe_is_named(name):
    with pytest.raises(UsageError, match="unknown recipe"):
        parse_run(["--recipe", name])


def test_an_unknown_recipe_of_a_known_plugin_is_answered_with_its_recipes():
    with pytest.raises(UsageError) as caught:
        parse_run(["--recipe", "at/small"])
    assert caught.value.fix == (
        "the recipes of at are at/finetune-robust, at/large-apgd2, at/large, at/robust-overfitting"
    )


def test_a_wheel_holds_the_built_in_recipes(tmp_path):
    code = f"import hatchling.build as b; print(b.build_wheel({str(tmp_path)!r}))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("abatis/config/at/")}
    recipes = {f"abatis/config/at/recipes/{path.name}" for path in CORE.values()}
    assert held == {"abatis/config/at/sources.toml", *recipes}


def test_the_registry_lists_the_recipes(capsys):
    assert main(["registry", "show", "emr"]) == 0
    assert "emr/released-at" in capsys.readouterr().out


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
