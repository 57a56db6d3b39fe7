"""Documentation that cannot drift: signatures, commands and links are checked against the code."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from abatis import DEFENSE_API, PluginConfig, TrainerHooks, cli
from abatis.api import hooks
from abatis.commands.new.make_plugin import KINDS
from abatis.commands.registry.entries import read_registry
from abatis.config.command_line import parse_run

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for glob in ("*.md", "docs/**/*.md", "plugins/*/README.md", "examples/**/*.md")
    for page in ROOT.glob(glob)
)
HOOKS = [name for name in vars(hooks) if name.startswith("defense_")]
IDS = {"ids": lambda path: path.relative_to(ROOT).as_posix()}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_on_the_page_with_its_signature(name):
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    signature = f"def {name}{inspect.signature(getattr(hooks, name))}".replace("'", "")
    assert f"## {name}" in page
    assert signature in page


def test_the_page_names_no_other_hook():
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\bdefense_[a-z_]+\b", page)) == set(HOOKS)


def test_the_table_of_versions_holds_the_whole_contract():
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    _, _, rows = page.partition("| version | what it added |\n|---|---|\n")
    table = rows.partition("\n\n")[0]
    versions = re.findall(r"^\| ([\d.]+) \|", table, re.MULTILINE)
    assert versions[-1] == DEFENSE_API
    own = {
        name
        for kind in (PluginConfig, TrainerHooks)
        for name in vars(kind)
        if not name.startswith(("_", "model_", "is_"))
    }
    assert {*HOOKS, *own} <= set(re.findall(r"`(\w+)`", table))


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def shell_lines(page):
    """The commands in the shell blocks of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [part for line in lines for part in line.split(" && ")]


def commands(page):
    return [line for line in shell_lines(page) if line.startswith("defense-run ")]


@pytest.mark.parametrize("page", PAGES, **IDS)
def test_every_command_is_one_there_is(page):
    """tests/docs/test_docs_commands.py runs them; here first words, subcommands, targets and
    modules are looked up.
    """
    targets = re.findall(
        r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"```(bash|console|shell)\n", text), (
        "shell blocks are marked sh, else no test sees them"
    )
    inline = re.findall(
        r"`((?:defense|make|python -m) [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )
    for line in [*shell_lines(page), *inline]:
        match shlex.split(line, comments=True):
            case ["defense", name, *_]:
                assert name in cli.find_commands() or name == "--help", line
            case ["make", *names]:
                assert set(names) <= set(targets), line
            case ["python", "-m", module, *_]:
                assert module in ("pip", "pytest") or importlib.util.find_spec(module), line
            case words:
                assert words[0] in ("defense-run", "torchrun", "pip", "export", "cd", "git", "."), (
                    line
                )


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], **IDS)
def test_every_defense_run_command_is_understood(page, tmp_path, monkeypatch):
    """Parsed in full, with the options of its plugins; files it names are made up where they are
    missing.
    """
    monkeypatch.chdir(tmp_path)
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        if "--help" in words or any(name not in read_registry() for name in plugins_named(words)):
            continue
        if "--config" in words:
            Path(words[words.index("--config") + 1]).parent.mkdir(parents=True, exist_ok=True)
            Path(words[words.index("--config") + 1]).write_text("")
        parse_run(words)


def section(page, title):
    """What is below a heading of the second level."""
    return page.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]


TUTORIAL = ROOT / "docs" / "writing-a-plugin.md"


@pytest.mark.slow
def test_the_tutorial_of_one_file_runs_as_it_stands(tmp_path, monkeypatch):
    """Every file of it is written, every line of its shell blocks is run."""
    monkeypatch.chdir(tmp_path)
    text = section(TUTORIAL, "One file")
    for name, source in re.findall(r"### (\S+\.py)\n\n```python\n(.*?)```", text, re.DOTALL):
        Path(name).write_text(source)
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) >= 5
    for program, *words in map(shlex.split, lines):
        if program == "python":
            done = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout
        elif "--help" in words:
            with pytest.raises(SystemExit):
                cli.run(words)
        else:
            assert cli.run(words) == 0
    (metrics,) = tmp_path.glob("runs/*/metrics.jsonl")
    assert "my-idea/norm_sq" in metrics.read_text()


def test_the_tutorial_shows_what_defense_new_makes_and_says(tmp_path, monkeypatch, capsys):
    """What is said is performed by tests/commands/test_new.py, for every kind."""
    monkeypatch.chdir(tmp_path)
    text = section(TUTORIAL, "A distribution")
    assert cli.main(shlex.split(re.search(r"^defense (new .*)", text, re.MULTILINE)[1])) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert "\n".join(said) in text
    tree = re.findall(r"^  (\S+)", text, re.MULTILINE)
    made = {
        path.relative_to("squeeze").as_posix()
        for path in Path("squeeze").rglob("*")
        if path.is_file()
    }
    assert made == set(tree)
    everything = "".join(Path("squeeze", name).read_text() for name in made)
    shown = re.findall(r"```(?:toml|python)\n(.*?)```", text, re.DOTALL)
    assert shown
    assert all(block in everything for block in shown)
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)) == KINDS


def plugins_named(words):
    return [word for flag, word in pairwise(words) if flag == "--plugin"]


def test_the_front_page_starts_with_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert (
        0
        < text.index("make demo")
        < text.index("make test")
        < text.index("defense-run --plugin emr --backbone wrn34")
    )
