"""The words of the command line, where they come from, and what is said about wrong ones."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from abatis import RunConfig
from abatis.cli import main, run
from abatis.commands.compare.options import parse as parse_compare
from abatis.commands.export.options import parse as parse_export
from abatis.config.command_line import parse_run
from abatis.config.parser import tell
from abatis.errors import UsageError


def parse(line):
    return parse_run(line.split())


def test_the_literal_main_command_has_the_field_s_defaults():
    config = parse("--plugin emr --backbone wrn34")
    assert (config.plugin, config.backbone, config.data, config.threat) == (
        ("emr",),
        "wrn34",
        "cifar10",
        "Linf:8/255",
    )
    assert (config.epochs, config.batch_size, config.attack.steps, config.attack.bn) == (
        100,
        128,
        10,
        "eval",
    )
    optim = config.optim
    assert (optim.lr, optim.momentum, optim.weight_decay, optim.milestones) == (
        0.1,
        0.9,
        5e-4,
        (0.6, 0.9),
    )
    emr = config.options["emr"]
    assert (emr.weight, emr.temperature, emr.decay, emr.decay_epochs) == (3, 40, 0.1, (60, 90))


def test_every_word_of_the_command_line():
    config = parse(
        "--plugin mart --plugin emr --backbone cnn --pretrained --data digits --data-dir d "
        "--limit 9 --threat L2:0.5 --attack.steps 3 --attack.step-size 2/255 --attack.bn "
        "train --attack.start normal --epochs 2 --batch-size 7 --optim.lr 0.2 "
        "--optim.weight-decay 0 --optim.schedule cosine --ema --seed 5 --device cpu "
        "--precision bf16 --out o --name n --eval quick --use loss=mart --init w.safetensors "
        "--accumulate 2 --workers 1 --clip-grad 1 --checkpoint-every 10 --resume --dry-run "
        "--quiet --emr.weight 0.01 --mart.beta 5 --emr.decay-epochs 3,4"
    )
    assert config.plugin == ("emr", "mart")
    assert (config.pretrained, config.resume, config.dry_run, config.quiet) == (True,) * 4
    assert (config.limit, config.ema, config.clip_grad, config.checkpoint_every) == (
        9,
        0.999,
        1,
        10,
    )
    assert (config.attack.start, config.attack.step_size, config.use) == (
        "normal",
        "2/255",
        {"loss": "mart"},
    )
    assert config.options["emr"].decay_epochs == (3, 4)
    assert config.options["mart"].beta == 5


@pytest.mark.parametrize(
    "line", ["--batch_size 4 --emr.decay_epochs 7", "--batch-size=4 --emr.decay-epochs=7"]
)
def test_both_spellings_are_accepted(line):
    config = parse(f"--plugin emr {line}")
    assert (config.batch_size, config.options["emr"].decay_epochs) == (4, (7,))


@pytest.mark.parametrize(
    ("line", "decay"), [("--ema", 0.999), ("--ema 0.5", 0.5), ("--ema --quiet", 0.999), ("", 0.0)]
)
def test_averaging_with_and_without_a_decay(line, decay):
    assert parse(f"--data digits {line}").ema == decay


def test_defaults_below_file_below_command_line(tmp_path):
    file = tmp_path / "run.toml"
    core = (
        'plugin = ["emr", "mart"]\nepochs = 7\nbatch-size = 5\n[optim]\nlr = 0.3\nmomentum = 0.5\n'
    )
    file.write_text(core + "[emr]\nweight = 2\n[mart]\nbeta = 1\n")
    config = parse(f"--config {file} --plugin emr --epochs 9 --optim.lr 0.4 --emr.decay 0.5")
    assert (config.plugin, config.epochs, config.batch_size) == (("emr",), 9, 5)
    assert (config.optim.lr, config.optim.momentum) == (0.4, 0.5)
    assert (config.options["emr"].weight, config.options["emr"].decay) == (2, 0.5)
    assert set(parse(f"--config {file}").options) == {"emr", "mart"}


def test_a_table_of_a_plugin_that_is_not_selected_is_ignored_with_a_note(tmp_path, capsys):
    (tmp_path / "run.toml").write_text('backbone = "cnn"\ndata = "digits"\n[emr]\nwieght = 2\n')
    line = ["--config", str(tmp_path / "run.toml"), "--dry-run"]
    assert run(line) == 0
    assert (
        capsys.readouterr().err
        == "note: options of 'emr' are ignored: that plugin is not selected; add --plugin emr\n"
    )
    assert run([*line, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="'emr', which is not selected"):
        RunConfig(emr={"weight": 2})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--plugin emmr", "did you mean 'emr'"),
        ("--plugin emr --emr.wieght 1", "did you mean '--emr.weight'"),
        ("--plugin emr --emr.weight -1", "emr.weight"),
        ("--plugin emr --emr.weight much", "emr.weight"),
        ("--mart.beta 5", "add --plugin mart"),
        ("--epohcs 5", "did you mean '--epochs'"),
        ("--epochs many", "epochs"),
        ("--epochs", "epochs"),
        ("--name ../../x", "name"),
        ("--threat Linf:8", "Linf:8/255"),
        ("--config nowhere.toml", "nowhere.toml"),
        ("--backbone wnr34 --data digits --out {tmp}", "did you mean 'wrn34'"),
        ("--data digitts --out {tmp}", "did you mean 'digits'"),
        ("--use loss --data digits", "--use ROLE=NAME"),
        ("--use loss=emmr --plugin emr --data digits --out {tmp}", "emmr"),
        ("--device cuda:99 --data digits --out {tmp}", "cuda:99"),
    ],
)
def test_a_user_s_mistake_is_a_short_message_and_exit_code_2(line, complaint, capsys, tmp_path):
    assert run(line.format(tmp=tmp_path).split()) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert len(captured.err.strip().splitlines()) <= 4
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("line", "what", "fix"),
    [
        ("--mix 0.5", "--mix is a group of options", "--mix.mixup 0.5"),
        ("--mix=0.5", "--mix is a group of options", "mix.mixup = 0.5 in TOML"),
        ("--attack 5", "--attack is a group of options", "--attack.steps 5"),
        ("--optim adamw", "--optim is a group of options", 'optim.name = "adamw" in TOML'),
        ("--optim 0.2", "--optim is a group of options", "--optim.lr 0.2"),
        ("--extra new.npz", "--extra is a group of options", "--extra.file new.npz"),
        ("--plugin emr --emr 5", "--emr is a group of options", "--emr.weight 5"),
        ("--attack", "--attack is a group of options", "the names are steps, step-size"),
        ("--mix --quiet", "--mix is a group of options", "the names are mixup, cutmix"),
        ("--optim nothing-like-it", "(got nothing-like-it)", "the names are name, lr"),
        ("--emr 5", "a plugin that is not selected", "add --plugin emr"),
    ],
)
def test_a_group_that_is_given_a_value_says_which_option_takes_it(line, what, fix):
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert what in caught.value.what
    assert fix in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4


def test_a_group_may_be_a_json_table():
    assert parse_run(["--attack", '{"steps": 3}', "--mix={}"]).attack.steps == 3


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("--attack.steps", "--attack.steps needs a value"),
        ("--attack.steps 2.5", "attack.steps must be a whole number, not '2.5'"),
        ("--attack.steps true", "attack.steps must be a whole number, not 'true'"),
        ("--optim.lr fast", "optim.lr must be a number, not 'fast'"),
        ("--optim.lr 0", "optim.lr must be above 0, not '0'"),
        ("--epochs 0", "epochs must be at least 1, not '0'"),
        ("--optim.name adam", "optim.name must be 'sgd' or 'adamw', not 'adam'"),
        ("--optim.betas 0.9", "value 2 of optim.betas is missing"),
        (
            "--track aim",
            "value 1 of track: unknown tracker 'aim', known: mlflow, tensorboard, wandb",
        ),
        ("--pretrained yes", "'yes' belongs to no option"),
        ("--epochs 3 4", "'4' belongs to no option"),
        ("--quiet=1", "--quiet/--no-quiet takes no value (got '1')"),
        ("--attack {", "the value of --attack cannot be read"),
        ("--optim.betas [0.9", "the value of --optim.betas cannot be read"),
    ],
)
def test_a_wrong_value_is_described_in_words(line, what):
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert caught.value.what == what


def test_help_fits_80_columns_and_has_readable_defaults(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run(["--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "[>= 0, <= 1000000]" in text
    assert "(default: 0.6,0.9)" in text
    assert not re.search(r"\(default: (None|False|True|\(.*|\{\}|)\)|\xa0|e\+0", text)


def test_the_umbrella_command(capsys):
    assert main([]) == 0
    assert "registry" in capsys.readouterr().out
    assert main(["registri"]) == 2
    assert "did you mean 'registry'" in capsys.readouterr().err


def test_help_of_a_plugin_lists_default_bound_and_sentence(capsys):
    with pytest.raises(SystemExit) as caught:
        run(["--plugin", "emr", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--emr.weight X lambda, the weight of the penalty [>= 0] (default: 3.0)" in text
    assert "--mart.beta" not in text


LIGHT = """import sys
import contextlib
from abatis import cli, hookimpl, PluginConfig, Term
{call}
assert 'torch' not in sys.modules, 'torch'
"""


@pytest.mark.parametrize(
    "call",
    [
        "with contextlib.suppress(SystemExit): cli.run(['--help'])\n",
        "with contextlib.suppress(SystemExit): cli.run(['--plugin', 'emr', '--help'])\n",
        "cli.main(['registry', 'list'])\nassert 'pydantic_settings' not in sys.modules",
        "cli.main(['registry', 'list', '--json'])\nassert 'abatis_emr' not in sys.modules",
        "cli.main(['registry', 'show', 'emr'])\nassert 'abatis_emr' not in sys.modules",
        "cli.main(['registry', 'check'])",
        "cli.run(['--plugin', 'emmr'])",
    ],
)
def test_listing_and_help_work_without_torch(call):
    code = LIGHT.replace("{call}", call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    file = tmp_path / "bom.toml"
    file.write_text('data = "digits"\n', encoding="utf-8-sig")
    assert parse(f"--config {file}").data == "digits"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("batch-size = 32\nbatch_size = 64", "'batch-size' and 'batch_size' are two spellings"),
        (
            "[attack]\nstep-size = 0.1\nstep_size = 0.2",
            "'step-size' and 'step_size' in [attack] are two spellings",
        ),
        ("[optim]\nlr = true", "optim.lr must be a number, not True"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, text, complaint):
    file = tmp_path / "run.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        parse(f"--config {file} --data digits")
    assert complaint in caught.value.what
    with pytest.raises(UsageError):  # nor where the command line gives it once more
        parse(f"--config {file} --data digits --batch-size 8 --attack.step-size 0.1")


def test_the_command_line_wins_over_another_spelling_in_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[attack]\nstep-size = 0.1\nsteps = 3", encoding="utf-8")
    attack = parse(f"--config {file} --data digits --attack.step-size 0.2").attack
    assert (attack.step_size, attack.steps) == ("0.2", 3)


@pytest.mark.parametrize(
    "line",
    [
        "--threat Linf:0.1 --threat L2:1 --threat L1:3",
        "--threat=Linf:0.1 --threat=L2:1 --also-train L1:3",
        "--threat Linf:0.1 --threat Linf:0.1 --also-train L2:1 --threat L1:3",
    ],
)
def test_every_threat_but_the_first_is_trained_too(line, capsys):
    config = parse(line)
    assert (config.threat, config.also_train) == ("Linf:0.1", ("L2:1", "L1:3"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("--epochs 3 --epochs 4", "--epochs is given twice: 3 and 4"),
        ("--epochs=3 --quiet --epochs 4", "--epochs is given twice: 3 and 4"),
        ("--batch_size 3 --batch-size 4", "--batch-size is given twice: 3 and 4"),
        ("--fold --no-fold", "--fold is given twice: as --fold and --no-fold"),
        ("--config a.toml --config b.toml", "--config is given twice: a.toml and b.toml"),
        ("--plugin emr --emr.weight 1 --emr.weight 2", "--emr.weight is given twice: 1 and 2"),
        ("--ema 0.9 --ema", "--ema is given twice: 0.9 and 0.999"),
    ],
)
def test_an_option_with_two_values_is_told_and_the_last_one_counts(
    line, what, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tell.cache_clear()
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text("")
    parse(line)
    assert capsys.readouterr().err == f"note: {what}; the last one counts\n"


def test_what_may_be_given_again():
    line = "--plugin emr --plugin mart --epochs 3 --epochs 3 --resume --resume --track mlflow"
    config = parse(f"{line} --emr.decay-epochs 3 --emr.decay-epochs 4 --track wandb")
    assert (config.epochs, config.plugin, config.track) == (3, ("emr", "mart"), ("mlflow", "wandb"))
    assert config.options["emr"].decay_epochs == (3, 4)


def test_a_table_and_one_of_its_options_are_refused():
    with pytest.raises(UsageError, match="--attack is given as a table, and "):
        parse_run(["--attack", '{"steps": 3}', "--attack.steps", "4"])


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ('epochs = "3"', 'epochs: "3" is a text, where a number is wanted', "write epochs = 3"),
        ('batch-size = "8"', "batch_size: ", "write batch_size = 8"),
        ('fold = "false"', 'fold: "false" is a text, where true or false', "write fold = false"),
        ('[optim]\nweight-decay = "0"', "optim.weight_decay: ", "write weight_decay = 0.0"),
        (
            '[optim]\nmilestones = [0.5, "0.9"]',
            "optim.milestones: ",
            "write milestones = [0.5, 0.9]",
        ),
        ('plugin = ["emr"]\n[emr]\nweight = "2"', 'emr.weight: "2" is', "write weight = 2.0"),
    ],
)
def test_a_number_in_quotes_is_refused_in_a_file(tmp_path, text, what, fix):
    file = tmp_path / "run.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        parse(f"--config {file} --data digits")
    assert caught.value.what.startswith(what)
    assert (caught.value.where, caught.value.fix) == (str(file), fix)


def test_a_text_that_is_a_number_where_a_text_is_wanted(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'name = "3"\nthreat = "Linf:0.1"\n[attack]\nstep-size = "0.1"', encoding="utf-8"
    )
    config = parse(f"--config {file} --data digits")
    assert (config.name, config.attack.step_size) == ("3", "0.1")


def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.toml").write_text('data-dir = "~/sets"\n[extra]\nfile = "~/more.npz"\n')
    config = parse("--config=~/run.toml --out=~/runs --init=~/w.safetensors --continue-from=~/r/a")
    assert config.out == tmp_path / "runs"
    assert config.data_dir == tmp_path / "sets"
    assert (config.init, config.continue_from) == (tmp_path / "w.safetensors", tmp_path / "r" / "a")
    assert config.extra.file == tmp_path / "more.npz"
    assert RunConfig(out="~/x").out == tmp_path / "x"
    assert parse_compare(["~/a", "--out=~/b"], "").models == ("~/a",)
    assert parse_compare(["~/a", "--out=~/b"], "").options.out == tmp_path / "b"
    assert parse_export(["~/a", "--to", "onnx", "--out=~/b"], "").out == tmp_path / "b"
    assert parse_export(["~/a", "--to", "onnx", "--out=~/b"], "").run == tmp_path / "a"
