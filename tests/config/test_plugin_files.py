"""``--plugin ./my_idea.py``: one file is a plugin like any other.

Its contract is kept in the tutorial, see test_docs.py.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import abatis
from abatis import RunConfig
from abatis.cli import main
from abatis.cli import run as defense_run
from abatis.config.command_line import parse_run
from abatis.errors import UsageError
from abatis.testing import loss_terms
from tests.helpers import tiny, write_tiny

IDEA = '''"""Logit squeezing."""

from __future__ import annotations

from abatis import PluginConfig, Regularizer, Run, StepContext, Term, Terms, hookimpl
from pydantic import Field


class MyIdeaConfig(PluginConfig):
    neutral = {"weight": 0}

    weight: float = Field(0.01, ge=0, description="weight of the penalty")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MyIdeaConfig


@hookimpl
def defense_regularizer(run: Run) -> Regularizer:
    config = run.config(MyIdeaConfig)

    def penalty(ctx: StepContext) -> Terms:
        return {"norm_sq": Term(ctx.logits_adv.square().sum(1), weight=config.weight)}  # (B,)

    return penalty
'''


@pytest.fixture(autouse=True)
def idea(tmp_path, monkeypatch):
    """The file, in the working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my_idea.py"
    file.write_text(IDEA)
    return file


@pytest.mark.parametrize(
    "spelled",
    ["./my_idea.py", "my_idea.py", "../{folder}/my_idea.py", "{parent}/{folder}/my_idea.py"],
)
def test_it_is_named_by_its_path_and_has_the_name_of_the_file(tmp_path, spelled):
    path = spelled.format(folder=tmp_path.name, parent=tmp_path.parent)
    config = parse_run(["--plugin", path, "--my-idea.weight", "2"])
    assert config.plugin == (Path(path).as_posix(),)
    assert config.options["my-idea"].weight == 2


def test_the_command_line_toml_and_python_say_the_same(tmp_path):
    asked = parse_run(["--plugin", "./my_idea.py", "--plugin", "mart", "--my_idea.weight", "2"])
    (tmp_path / "run.toml").write_text('plugin = ["mart", "./my_idea.py"]\n[my_idea]\nweight = 2\n')
    assert parse_run(["--config", "run.toml"]) == asked
    assert RunConfig(plugin=["./my_idea.py", "mart"], my_idea={"weight": 2}) == asked
    assert RunConfig.model_validate(asked.to_toml()) == asked
    assert asked.plugin == ("mart", "my_idea.py")


def test_help_shows_its_options(capsys):
    with pytest.raises(SystemExit):
        defense_run(["--plugin", "./my_idea.py", "--help"])
    assert "--my-idea.weight X weight of the penalty [>= 0] (default: 0.01)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_run_folder_records_path_and_content_and_a_changed_file_is_refused_by_name(
    tmp_path, idea, capsys
):
    sha = f"sha256:{hashlib.sha256(idea.read_bytes()).hexdigest()}"
    line = [
        *write_tiny(tiny(tmp_path)),
        "--plugin",
        "./my_idea.py",
        "--my-idea.weight",
        "0.1",
        "--name",
        "r",
    ]
    assert defense_run(line) == 0
    row = next(
        row
        for row in json.loads((tmp_path / "r" / "plan.json").read_text())
        if row["provider"] == "my-idea"
    )
    assert row["version"] == sha
    assert json.loads((tmp_path / "r" / "environment.json").read_text())["files"] == {
        "my-idea": str(idea)
    }
    assert "my-idea/norm_sq" in (tmp_path / "r" / "metrics.jsonl").read_text()
    idea.write_text(IDEA.replace("square", "abs"))
    more = [*line, "--epochs", "3", "--resume"]
    assert defense_run(more) == 2
    message = capsys.readouterr().err
    assert f"my_idea was {sha}, now sha256:" in message
    assert "--allow-mismatch my_idea" in message
    assert len(message.splitlines()) <= 4
    assert defense_run([*more, "--allow-mismatch", "my-idea"]) == 0
    assert any(
        "my_idea was" in text
        for text in json.loads((tmp_path / "r" / "environment.json").read_text())["resumed"]
    )


def test_a_run_is_made_of_the_file_as_it_was_read(tmp_path, idea):
    """Edited or deleted during the run: its checkpoints name the content that computed them."""
    config = tiny(tmp_path, plugin=["./my_idea.py"], name="r")
    sha = hashlib.sha256(idea.read_bytes()).hexdigest()
    idea.unlink()
    folder = abatis.run(config).folder
    assert sha in (folder / "plan.json").read_text()
    idea.write_text(IDEA)
    abatis.run(tiny(tmp_path, plugin=["./my_idea.py"], name="r", epochs=3, resume=True))


def test_a_new_configuration_reads_the_file_anew(idea):
    assert RunConfig(plugin=["./my_idea.py"]).options["my-idea"].weight == 0.01
    idea.write_text(IDEA.replace("0.01", "0.5"))
    assert RunConfig(plugin=["./my_idea.py"]).options["my-idea"].weight == 0.5


def test_compare_trains_it_and_does_not_mix_in_runs_of_another_content(idea, capsys):
    core = (
        "--data digits --backbone cnn --limit 60 --epochs 1 --threat Linf:0.1 --attack.steps 1 "
        "--eval quick --quiet --my-idea.weight 0.1 --allow-fail --out c"
    )
    line = ["compare", "--methods", "at", "./my_idea.py", *core.split()]
    assert main(line) == 0
    names = [row["method"] for row in json.loads(Path("c/compare.json").read_text())["rows"]]
    assert sorted(names) == ["at", "my-idea"]
    assert Path("c/my-idea-s0/run.toml").is_file()
    assert main(["compare", "c/at-s0", "c/my-idea-s0", "--out", "d", "--allow-fail"]) == 0
    idea.write_text(IDEA.replace("square", "abs"))
    capsys.readouterr()
    assert main(line) == 2
    assert (
        "c/my-idea-s0 was run with another version of a file: my-idea was sha256:"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_several_processes_run_it(tmp_path):
    line = [
        "--plugin",
        "./my_idea.py",
        *write_tiny(tiny(tmp_path, epochs=1)),
        "--name",
        "r",
        "--nproc",
        "2",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "abatis", "run", *line], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "my-idea/norm_sq" in (tmp_path / "r" / "metrics.jsonl").read_text()


def test_loss_terms_takes_the_path(idea):
    import torch

    logits = torch.tensor([[3.0, 4.0]])
    terms = loss_terms(
        "./my_idea.py",
        logits_clean=logits,
        logits_adv=logits,
        y=torch.tensor([0]),
        options={"weight": 2},
    )
    assert terms["my-idea/norm_sq"].value.tolist() == [25]


FAULTS = {
    "missing.py": (None, 2, "no plugin file missing.py", "missing.py"),
    "no/such/name": (None, 2, "no plugin file name", "no/such/name"),
    "syntax.py": ("x = 1\ndef f(:\n", 1, "SyntaxError", "syntax.py:2"),
    "nul.py": ("x = 1\0\n", 1, "SyntaxError", "nul.py"),
    "broken.py": ("\n\nimport nothing_like_it\n", 1, "nothing_like_it", "broken.py:3"),
    "leaves.py": ("import sys\nsys.exit(0)\n", 1, "SystemExit", "leaves.py:2"),
    "empty.py": ("", 1, "no hooks", "empty.py"),
    "unmarked.py": (
        "\ndef defense_loss(run): ...\n",
        1,
        "write @hookimpl above def defense_loss",
        "unmarked.py:2",
    ),
    "typo.py": (
        "from abatis import hookimpl\n@hookimpl\ndef defense_los(run): ...\n",
        1,
        "'defense_loss'",
        "typo.py:2",
    ),
    "more.py": (
        "from abatis import hookimpl\n@hookimpl\ndef defense_loss(run, more): ...\n",
        1,
        "'more'",
        "more.py:2",
    ),
    "options.py": (
        IDEA.replace("return MyIdeaConfig", "return dict"),
        2,
        "name of a core option",
        "options.py",
    ),
    "wrong.py": (IDEA.replace("return MyIdeaConfig", "return dict"), 1, "PluginConfig", "wrong.py"),
    "emr.py": (IDEA, 2, "abatis-emr has that name", "emr.py"),
    "none.py": (IDEA, 2, "built in", "none.py"),
    "2much.py": (IDEA, 2, "begins with a letter", "2much.py"),
    "later.py": (IDEA + 'DEFENSE_API = "2.0"\n', 1, "DEFENSE_API 2.0", "later.py"),
    "vague.py": (IDEA + 'DEFENSE_API = "one"\n', 1, "not a version", "vague.py"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_mistake_is_told_in_four_lines_with_its_place(name, tmp_path, capsys):
    source, code, complaint, place = FAULTS[name]
    if source is not None:
        (tmp_path / name).write_text(source)
    assert defense_run(["--plugin", f"./{name}", "--dry-run", "--data", "digits"]) == code
    message = capsys.readouterr().err
    assert complaint in message
    assert f"where: {tmp_path / place}" in message
    assert len(message.strip().splitlines()) <= 4
    assert "Traceback" not in message


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "my_idea.py").write_text(IDEA)
    with pytest.raises(UsageError, match="two plugins are named 'my-idea'"):
        RunConfig(plugin=["./my_idea.py", "b/my_idea.py"])


def test_a_trained_run_is_not_judged_as_another_file_s_unless_allowed(tmp_path, idea, capsys):
    line = [
        *write_tiny(tiny(tmp_path, epochs=1)),
        "--plugin",
        "./my_idea.py",
        "--my-idea.weight",
        "0.1",
        "--name",
        "r",
    ]
    sha = f"sha256:{hashlib.sha256(idea.read_bytes()).hexdigest()}"
    assert defense_run(line) == 0
    idea.write_text(IDEA.replace("square", "abs"))
    judging = [*(part.replace("none", "quick") for part in line), "--resume"]
    assert defense_run(judging) == 2
    assert f"my_idea was {sha}" in capsys.readouterr().err
    assert sha in (tmp_path / "r" / "plan.json").read_text()
    assert defense_run([*judging, "--allow-mismatch", "my-idea"]) == 0
    assert any(
        f"my_idea was {sha}" in text
        for text in json.loads((tmp_path / "r" / "environment.json").read_text())["resumed"]
    )
    plan = (tmp_path / "r" / "plan.json").read_text()
    idea.write_text(IDEA)
    assert defense_run(judging) == 0  # trained and judged: it is left as it is
    assert (tmp_path / "r" / "plan.json").read_text() == plan
