"""Options that are called otherwise in other tools, and words that belong to no option."""

from __future__ import annotations

import re

import pytest

from abatis.cli import run
from abatis.commands.eval import command as evaluate
from abatis.config.command_line import parse_run
from abatis.config.other_names import OTHERS, OURS
from abatis.errors import UsageError


def parse(line):
    return parse_run(line.split())


@pytest.mark.parametrize(
    ("line", "ours", "fix"),
    [
        ("--lr 0.1", "--optim.lr", "--optim.lr 0.1"),
        ("--learning_rate=0.1", "--optim.lr", "--optim.lr 0.1"),
        ("--eps 8", "--threat", "--threat Linf:8/255"),
        ("--eps 8/255", "--threat", "--threat Linf:8/255"),
        ("--epsilon 0.031", "--threat", "--threat Linf:0.031"),
        ("--norm L2 --eps 0.5", "--threat", "--threat L2:0.5"),
        ("--eps=0.5 --norm l2", "--threat", "--threat L2:0.5"),
        ("--norm Linf", "--threat", "--threat Linf:EPS"),
        ("--output-dir there", "--out", "--out there"),
        ("--output_dir=there", "--out", "--out there"),
        ("--num_train_epochs 3", "--epochs", "--epochs 3"),
        ("--opt adamw", "--optim.name", "--optim.name adamw"),
        ("--eps_step 2/255", "--attack.step-size", "--attack.step-size 2/255"),
        ("--fp16", "--precision", "--precision bf16"),
        ("--report_to wandb", "--track", "--track wandb"),
        ("--wandb --quiet", "--track", "--track wandb"),
        ("--model resnet18", "--backbone", "--backbone resnet18"),
        ("--gpus 2", "--nproc", "--nproc 2"),
        ("--gpu 1", "--device", "--device cuda:1"),
        ("--accelerator gpu", "--device", "--device cuda"),
        ("--accelerator=cpu", "--device", "--device cpu"),
        ("-b 64", "--batch-size", "--batch-size 64"),
        ("lr=0.1", "--optim.lr", "--optim.lr 0.1"),
    ],
)
def test_an_option_of_another_tool_is_answered_with_ours(line, ours, fix):
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert caught.value.what.endswith(f": it is called {ours} here")
    assert caught.value.fix == f"write {fix}"


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("--fold False", "write --no-fold"),
        ("--epochs 3 --fold 0 --quiet", "write --no-fold"),
        ("--quiet true", "write --quiet"),
        ("optim.lr=0.1", "write --optim.lr 0.1"),
        ("+epochs=3", "write --epochs 3"),
        ("--epochs 3 4", "options are written --OPTION VALUE, lists with commas: 5,6"),
    ],
)
def test_a_word_that_belongs_to_no_option(line, fix):
    with pytest.raises(UsageError, match="belongs to no option") as caught:
        parse(line)
    assert caught.value.fix == fix


@pytest.mark.parametrize(
    ("word", "fix"), [("--fold=False", "write --no-fold"), ("--version", "defense --version")]
)
def test_a_switch_with_a_value_and_the_version(word, fix):
    with pytest.raises(UsageError) as caught:
        parse(word)
    assert caught.value.fix == fix


def test_every_option_that_another_name_leads_to_exists(capsys):
    with pytest.raises(SystemExit):
        run(["--help"])
    told = capsys.readouterr().out
    for option in OTHERS:
        assert re.search(rf"--{re.escape(option)}[ ,\n]", told), option
    assert not [name for name in OURS if re.search(rf"--{re.escape(name)}[ ,\n]", told)]
    assert len(OURS) == sum(len(names.split()) for names in OTHERS.values())


def test_an_evaluation_knows_the_other_names_too():
    with pytest.raises(UsageError) as caught:
        evaluate(["runs/x", "--eps", "8"])
    assert caught.value.fix == "write --threat Linf:8/255"


@pytest.mark.parametrize(
    ("text", "ours"), [("lr = 1", "optim.lr"), ("[optim]\nwd = 1", "optim.wd")]
)
def test_another_tool_s_name_in_a_file(tmp_path, text, ours):
    file = tmp_path / "run.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"it is called optim\.(lr|weight_decay) here"):
        parse(f"--config {file} --data digits")
