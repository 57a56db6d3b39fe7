"""Commands of other distributions: found by entry point, listed, called, and named if broken."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from abatis import __version__, cli
from abatis.errors import INTERRUPTED
from tests.helpers import write_distribution

ROOT = Path(__file__).resolve().parents[1]
OURS = {
    "compare",
    "doctor",
    "eval",
    "export",
    "jobs",
    "new",
    "registry",
    "run",
    "runs",
    "show",
    "sweep",
}
HELLO = '''
"""Not the help: that is the function's."""

def command(words):
    """Greet whoever is named.

    This line is not listed.
    """
    print("hello", *words)
    return 7

def nothing(words):
    """Return nothing, as a function without a return does."""
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder in ``sys.path``, here and in processes that a test starts."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    known = set(sys.modules)
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        if path.stem not in known:
            sys.modules.pop(path.stem, None)


def add(site, distribution, code, **commands):
    """Install a distribution with one module and some commands: names to objects in it."""
    module = distribution.replace("-", "_")
    (site / f"{module}.py").write_text(code, encoding="utf-8")
    lines = [f"{name} = {module}:{value}" for name, value in commands.items()]
    write_distribution(site, distribution, "\n".join(["[abatis.commands]", *lines]))


def test_a_command_of_another_distribution_is_listed_and_runs(site, capsys):
    add(site, "greeter", HELLO, hello="command", quiet="nothing")
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "  hello      Greet whoever is named.\n" in text
    assert "not listed" not in text
    assert cli.main(["hello", "you", "--loud"]) == 7
    assert capsys.readouterr().out == "hello you --loud\n"
    assert cli.main(["quiet"]) == 0


def test_a_command_that_returns_no_exit_code_is_named(site, capsys):
    add(site, "odd", "def command(words):\n    return 'done'\n", odd="command")
    assert cli.main(["odd"]) == 1
    err = capsys.readouterr().err
    assert "the command 'odd' returned 'done', not an exit code" in err
    assert "where: odd, odd:command" in err


def test_all_of_ours_are_listed(capsys):
    assert cli.main([]) == 0
    out, err = capsys.readouterr()
    assert {line.split()[0] for line in out.splitlines() if line.startswith("  ")} >= OURS
    assert "(no description)" not in out
    assert "abatis" not in err  # nothing of ours is broken


@pytest.mark.parametrize(
    ("code", "value", "why"),
    [
        ("import nothing_like_it", "command", "cannot be loaded: ModuleNotFoundError: No module"),
        ("raise SystemExit(3)", "command", "cannot be loaded: SystemExit: 3"),
        ("1 / 0", "command", "cannot be loaded: ZeroDivisionError"),
        ("raise ValueError('two\\nlines \\x1b[31m')", "command", "ValueError: two lines ?[31m"),
        ("command = 5", "command", "is not a function"),
        ("raise KeyboardInterrupt", "command", "cannot be loaded: KeyboardInterrupt"),
        ("", "command", "cannot be loaded: AttributeError"),
        ("def command(words): pass", "not a name!", "cannot be loaded: "),
    ],
)
def test_a_broken_command_is_named_and_skipped(site, capsys, code, value, why):
    add(site, "broken-greeter", code, hello=value)
    add(site, "greeter", HELLO, wave="command")
    assert cli.main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert "  hello" not in out
    assert "  wave " in out
    assert all(f"  {name}" in out for name in OURS)
    (line,) = err.splitlines()
    assert line.startswith("not listed: the command 'hello' ")
    assert why in line
    assert line.endswith("(broken-greeter)")
    assert line.isprintable()


def test_a_broken_command_that_is_called_is_an_error_of_four_lines(site, capsys):
    add(site, "broken-greeter", "import nothing_like_it", hello="command")
    assert cli.main(["hello", "you"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: the command 'hello' cannot be loaded: ModuleNotFoundError: No module named "
        "'nothing_like_it'",
        "  where: broken-greeter, broken_greeter:command",
        "  fix:   fix or reinstall broken-greeter; other commands are not affected",
        "  ABATIS_TRACEBACK=1 shows the full traceback",
    ]


FAULTY = """
def command(words):
    \"\"\"Fail as nobody expects.\"\"\"
    raise RuntimeError("two\\nlines \\x1b[31m" + words[0])
"""


def test_what_nobody_expected_ends_with_two_lines_and_70(site, capsys, monkeypatch):
    monkeypatch.delenv("ABATIS_TRACEBACK", raising=False)
    add(site, "faulty", FAULTY, fail="command")
    assert cli.main(["fail", "here"]) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "error: unexpected RuntimeError: two lines ?[31mhere",
        f"  please report it with the version, {__version__}, and what ABATIS_TRACEBACK=1 shows",
    ]
    monkeypatch.setenv("ABATIS_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="two"):
        cli.main(["fail", "here"])


def test_one_of_several_processes_names_itself_where_nobody_expected_it(site, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    add(site, "faulty", FAULTY, fail="command")
    assert cli.main(["fail", "here"]) == 70
    assert capsys.readouterr().err.startswith("process 3: error: unexpected RuntimeError: two")


def test_an_error_does_not_steer_the_terminal(site, capsys):
    assert cli.main(["eval", "a\x1b[2J\u202eb.py:net", "--data", "digits"]) == 2
    err = capsys.readouterr().err
    assert "a?[2J?b.py" in err
    assert err.replace("\n", "").isprintable()


def test_the_readme_lists_the_exit_codes():
    rows = re.findall(r"^\| (\d+) \| ", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert {"0", "2", str(cli.FAULT), str(INTERRUPTED), "75"} <= set(rows)


def test_our_commands_cannot_be_taken_over(site, capsys):
    """Not even by a distribution that comes first in the path and in the alphabet."""
    add(site, "a-thief", HELLO, registry="command", run="command")
    assert cli.main(["registry", "list"]) == 0
    assert "hello" not in capsys.readouterr().out
    assert cli.find_commands()["run"].value == "abatis.commands.run:command"


def test_odd_names_are_left_out_and_shown_harmlessly(site, capsys):
    add(site, "odd", HELLO, **{"re\x1b[31md": "command", "--help": "command", "two words": "nope"})
    assert cli.main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert len(err.splitlines()) == 3
    assert "not listed: 're\\x1b[31md' is not a valid name for a command (odd)" in err
    assert cli.find_commands().keys() >= OURS
    assert not {"--help", "two words"} & cli.find_commands().keys()


def test_an_unknown_command_is_compared_with_those_of_others(site, capsys):
    add(site, "greeter", HELLO, hello="command")
    assert cli.main(["helo"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: unknown command 'helo': did you mean 'hello'?",
        "  fix:   defense --help lists all commands",
    ]


def test_listing_commands_loads_neither_torch_nor_pydantic(site):
    add(site, "greeter", HELLO, hello="command")
    code = (
        "import sys; from abatis.cli import main; code = main(['--help']); "
        "print(code, sorted({*sys.modules} & {'torch', 'pydantic', 'timm', 'numpy', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert "  hello " in done.stdout


def test_the_page_on_commands_runs_as_it_stands(site, capsys):
    page = (ROOT / "docs" / "adding-a-command.md").read_text(encoding="utf-8")
    (toml,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ((name, value),) = tomllib.loads(toml)["project"]["entry-points"][cli.GROUP].items()
    package = site / value.partition(".")[0]
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "hello.py").write_text(source, encoding="utf-8")
    write_distribution(site, "my-package", f"[{cli.GROUP}]\n{name} = {value}\n")
    assert cli.main(["--help"]) == 0
    assert "  hello      Greet whoever is named.\n" in capsys.readouterr().out
    assert "  hello      Greet whoever is named.\n" in page
    assert cli.main(["hello", "world"]) == 0
    assert capsys.readouterr().out == "hello world\n"
