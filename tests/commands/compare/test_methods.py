"""What ``--methods`` trains: one budget for all, and each plugin's own recommended options."""

from __future__ import annotations

from pathlib import Path

import pytest

from abatis.commands.compare import methods
from abatis.commands.compare.methods import choose_out, plan_methods
from abatis.errors import UsageError


def asked(names, line="", seeds=1, out=None):
    return plan_methods(names.split(), seeds, line.split(), out, "defense compare")


def test_every_method_has_the_same_budget():
    line = (
        "--data digits --backbone cnn --epochs 7 --threat L2:0.5 --batch-size 9 "
        "--attack.steps 3 --optim.lr 0.2 --limit 50"
    )
    found = asked("at mart emr+trades", line, seeds=2)
    assert [method.name for method in found] == ["at", "mart", "emr+trades"]
    own = {"plugin", "options", "seed", "name"}
    budgets = [config.model_dump(exclude=own) for method in found for config in method.configs]
    assert all(budget == budgets[0] for budget in budgets)
    config = found[2].configs[1]
    assert (config.plugin, config.seed, config.name, config.resume) == (
        ("emr", "trades"),
        1,
        "emr_trades-s1",
        True,
    )
    assert (config.epochs, config.threat, config.attack.steps, config.optim.lr, config.limit) == (
        7,
        "L2:0.5",
        3,
        0.2,
        50,
    )
    assert config.out == Path("comparisons/digits")


def test_the_recommended_recipe_gives_the_plugin_s_options_and_nothing_else():
    """MART's recipe has 120 epochs and a rate of 0.01; MAIL's has both options below other than
    the plugin's defaults."""
    mart, mail = asked("mart mail", "--epochs 2")
    config = mail.configs[0]
    assert (config.options["mail"].normalization, config.options["mail"].burn_in) == ("mean", 75)
    assert mail.sources == "mail from recipe mail/cifar10-resnet18"
    config = mart.configs[0]
    assert (config.options["mart"].beta, config.epochs, config.optim.lr) == (5, 2, 0.1)


def test_the_recipe_of_the_backbone_comes_first():
    assert asked("mart", "--backbone wrn34")[0].sources == "mart from recipe mart/cifar10-wrn34"
    assert asked("mart", "--backbone wrn34")[0].configs[0].options["mart"].beta == 6
    assert asked("mart", "--backbone cnn")[0].sources == "mart from recipe mart/cifar10-resnet18"


def test_a_released_recipe_is_not_recommended_and_other_data_have_none():
    assert (
        asked("trades", "--backbone wrn34")[0].sources
        == "trades from recipe trades/cifar10-resnet18"
    )
    assert asked("amm", "--data mnist")[0].sources == "amm from its defaults"
    assert asked("mail emr", "--data digits")[0].sources == "mail from its defaults"
    assert asked("at", "--data digits")[0].sources == "no plugin, built-in adversarial training"


def test_options_given_lie_above_the_recipe_and_belong_to_their_plugin_only():
    mart, both = asked("mart emr+mail", "--emr.weight 1 --mail.slope=2")
    emr, mail = "emr from recipe emr/cifar10-resnet18", "mail from recipe mail/cifar10-resnet18"
    assert both.configs[0].options["emr"].weight == 1
    assert both.configs[0].options["emr"].reduction == "sum"
    assert both.sources == f"{emr}, weight as given; {mail}, slope as given"
    assert set(mart.configs[0].options) == {"mart"}


def test_the_attack_is_shared_and_what_a_recipe_says_of_it_is_told():
    method = asked("amm")[0]
    assert method.configs[0].use == {}
    assert method.configs[0].options["amm"].c == 10
    assert method.sources == "amm from recipe amm/cifar10-resnet18 (without its use attacker=none)"
    assert asked("amm", "--use attacker=none")[0].sources == "amm from recipe amm/cifar10-resnet18"


def test_a_recipe_for_the_combination_comes_before_those_of_its_parts(tmp_path, monkeypatch):
    texts = {
        "mail/cifar10-alone": 'plugin = ["mail"]\ndata = "cifar10"\nbackbone = "resnet18"\n'
        "[mail]\nslope = 1\n",
        "mail/cifar10-pair": 'plugin = ["trades", "mail"]\ndata = "cifar10"\n'
        "[mail]\nslope = 2\n[trades]\nbeta = 3\n",
        "mail/cifar10-other": 'plugin = ["mart", "mail"]\ndata = "cifar10"\n[mail]\nslope = 4\n',
        "mail/mnist-pair": 'plugin = ["mail"]\ndata = "cifar10"\n[mail]\nslope = 5\n',
    }
    files = {}
    for name, text in texts.items():
        files[name] = tmp_path / f"{name.partition('/')[2]}.toml"
        files[name].write_text(text)
    monkeypatch.setattr(methods, "list_recipes", lambda plugin: files if plugin == "mail" else {})
    pair, alone = asked("mail+trades mail")
    assert pair.configs[0].options["mail"].slope == 2
    assert pair.configs[0].options["trades"].beta == 3
    assert (
        pair.sources == "mail from recipe mail/cifar10-pair; trades from recipe mail/cifar10-pair"
    )
    assert alone.configs[0].options["mail"].slope == 1


def test_a_method_is_trained_once_however_it_is_spelt():
    names = [
        method.name
        for method in asked(
            "trades+mail mail+trades at at+trades input_gradient,trades", "--data digits"
        )
    ]
    assert names == ["mail+trades", "at", "trades", "input-gradient"]


def test_seeds_count_from_the_one_given():
    assert [
        config.seed for config in asked("at", "--seed 5 --data digits", seeds=3)[0].configs
    ] == [5, 6, 7]


@pytest.mark.parametrize(
    ("data", "folder"),
    [("cifar10", "cifar10"), ("npz:a/few.npz", "few"), ("folder:a/cats", "cats")],
)
def test_the_folder_is_named_after_the_data(data, folder):
    assert choose_out(data) == Path("comparisons") / folder


@pytest.mark.parametrize(
    ("names", "line", "complaint"),
    [
        ("trade", "", "did you mean 'trades'"),
        ("at", "--epohcs 3", "did you mean '--epochs'"),
        ("emr", "--emr.wieght 3", "did you mean '--emr.weight'"),
        ("at", "--emr.weight 3", "--plugin emr"),
        ("at", "--plugin emr", "--methods"),
        ("at", "--name x", "--name"),
        ("at", "--ladder none", "--ladder"),
        ("at", "--epochs many", "epochs"),
        (",", "", "--methods is empty"),
    ],
)
def test_a_mistake_is_named(names, line, complaint):
    with pytest.raises(UsageError) as error:
        asked(names, line)
    assert complaint in str(error.value)
    assert len(str(error.value).splitlines()) <= 4
