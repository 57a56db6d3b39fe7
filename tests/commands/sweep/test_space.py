"""What a sweep may search, from the words."""

from __future__ import annotations

import pytest

from abatis import UsageError
from abatis.commands.sweep.options import parse
from abatis.commands.sweep.page import write_commands
from abatis.commands.sweep.space import Space, parse_space, write_words

RUN = "--data digits --backbone cnn --threat Linf:0.1"


@pytest.mark.parametrize(
    ("text", "extremes"),
    [
        ("optim.lr=log:0.01:0.3", (0.01, 0.3)),
        ("attack.steps=int:2:7", (2, 7)),
        ("optim.momentum=float:0:0.9", (0.0, 0.9)),
        ("optim.schedule=one-of:cosine,constant", ("cosine", "constant")),
    ],
)
def test_a_space_has_a_name_a_kind_and_ends(text, extremes):
    space = parse_space(text)
    assert space.extremes == extremes
    assert [type(value) for value in space.extremes] == [type(value) for value in extremes]
    assert write_words({space.name: extremes[0]}) == [f"--{space.name}={extremes[0]}"]


def test_underscores_and_a_flag_are_understood():
    space = parse_space("--optim.weight_decay=log:1e-5:1e-3")
    assert space == Space("optim.weight-decay", "log", 1e-5, 1e-3, (), space.text)


@pytest.mark.parametrize(
    "text",
    [
        "optim.lr",
        "optim.lr=0.1",
        "optim.lr=log:0:1",
        "optim.lr=log:0.3:0.01",
        "optim.lr=log:0.1",
        "optim.lr=log:nan:1",
        "attack.steps=int:1.5:3",
        "optim.name=one-of:sgd",
        "optim.name=one-of:sgd,sgd",
        "optim.lr=normal:0:1",
        "=log:1:2",
    ],
)
def test_what_is_no_space_is_a_usage_error(text):
    with pytest.raises(UsageError, match="--space"):
        parse_space(text)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (RUN, "nothing to search"),
        (f"{RUN} --space optim.lr=log:0.01:1e9", "optim.lr"),
        (f"{RUN} --space emr.weight=log:0.1:10", "emr"),
        (f"{RUN} --space optim.lr=log:0.01:0.1 --optim.lr 0.1", "searched, and given"),
        (f"{RUN} --space optim.lr=log:0.01:0.1 --space optim.lr=log:0.1:0.2", "given twice"),
        (f"{RUN} --space optim.lr=log:0.01:0.1 --ladder quick", "test set"),
        (f"{RUN} --space optim.lr=log:0.01:0.1 --name a", "names the runs"),
        (f"{RUN} --space optim.lr=log:0.01:0.1 --validation 0", "holds no images out"),
        (f"{RUN} --space optim.lr=log:0.01:0.1 --nproc 2", "--nproc"),
        (f"{RUN} --space optim.lr=log:0.01:0.1 --objective speed", "--objective"),
        (f"{RUN} --space optim.lr=log:0.01:0.1 --trials two", "'two' is not a whole number"),
        ("--data digits --space threat=one-of:Linf:0.01,Linf:0.1", "could not be compared"),
        (f"{RUN} --space validation=int:8:99", "could not be compared"),
        (f"{RUN} --space source.test-share=float:0.1:0.5", "could not be compared"),
        (f"{RUN} --space seed=int:0:9", "--seeds N trains each"),
        (f"{RUN} --space ladder=one-of:none,quick", "changes nothing"),
        (f"{RUN} --space quiet=one-of:true,false", "changes nothing"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_the_first_trial(words, says):
    with pytest.raises(UsageError) as error:
        parse(words.split(), "defense sweep")
    assert says in str(error.value)


def test_a_trial_is_an_ordinary_run(tmp_path):
    words = f"{RUN} --seed 5 --space attack.steps=int:2:7 --out {tmp_path}"
    config = parse(words.split(), "defense sweep").configure({"attack.steps": 3}, 7, 1)
    assert (config.name, config.seed, config.attack.steps) == ("trial-0008-s1", 6, 3)
    assert (config.ladder, config.resume, config.out) == ("none", True, tmp_path)


def test_each_trial_of_the_front_has_a_command_that_judges_it():
    asked = parse([*RUN.split(), "--space", "attack.steps=int:2:7", "--out", "s"], "defense sweep")
    (command,) = write_commands(asked, [2])
    assert command == (
        "defense-run --config s/trial-0003-s0/run.toml --ladder standard --out runs --name s-best"
    )
    names = [command.split()[-1] for command in write_commands(asked, [2, 0])]
    assert names == ["s-trial-3", "s-trial-1"]
    assert write_commands(asked, []) == []
    odd = parse([*RUN.split(), "--space", "attack.steps=int:2:7", "--out", "a/b ü.c"], "sweep")
    assert write_commands(odd, [2])[0].endswith(" --name b-c-best")  # the name of a run
