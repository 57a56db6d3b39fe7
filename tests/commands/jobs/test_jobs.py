"""``defense jobs``: any commands, some at a time, and by submitit's local executor."""

from __future__ import annotations

import shlex
import sys

import pytest

from abatis import UsageError
from abatis.commands.jobs import command
from abatis.commands.jobs.one_line import STOPPED, OneLine, find_words


def write_file(tmp_path, *programs):
    """A file of commands, each a Python program; a comment and an empty line between them."""
    lines = [shlex.join([sys.executable, "-c", program]) for program in programs]
    file = tmp_path / "jobs.txt"
    file.write_text("# made by a test\n\n" + "\n".join(lines) + "\n")
    return file


def test_every_line_runs_and_its_output_is_kept(tmp_path, capsys):
    file = write_file(tmp_path, "print('one')", "print('two')")
    assert command(["run", str(file), "--workers", "2"]) == 0
    logs = tmp_path / "jobs.txt.logs"
    assert (logs / "line-0003.log").read_text() == "one\n"
    assert (logs / "line-0004.log").read_text() == "two\n"
    assert "2 of 2 commands ended" in capsys.readouterr().out


def test_a_failure_is_named_and_the_others_run(tmp_path, capsys):
    file = write_file(tmp_path, "raise SystemExit(4)", "print('two')")
    assert command(["run", str(file)]) == 4
    said = capsys.readouterr()
    assert "line 3 failed with exit code 4" in said.err
    assert "1 of 2 commands ended" in said.out


def test_a_command_that_is_not_there_fails_alone(tmp_path, capsys):
    file = write_file(tmp_path, "print('one')", "print('two')")
    lines = [*file.read_text().splitlines(), "no-such-command --x"]
    file.write_text("\n".join([lines[-1], *lines[:-1]]), encoding="utf-8-sig")  # with a BOM
    assert command(["run", str(file)]) == 127
    said = capsys.readouterr()
    assert "line 1 failed: no such command" in said.err
    assert "2 of 3 commands ended" in said.out
    assert "'no-such-command'" in (tmp_path / "jobs.txt.logs" / "line-0001.log").read_text()


def test_a_line_that_is_no_command_is_named_before_any_runs(tmp_path):
    file = write_file(tmp_path, "print('one')")
    file.write_text(file.read_text() + "echo 'one\n")
    with pytest.raises(UsageError, match="line 4 is not a command"):
        command(["run", str(file)])
    assert not (tmp_path / "jobs.txt.logs").exists()
    assert command(["run", str(file), "--line", "3"]) == 0


def test_a_command_that_was_stopped_goes_on(tmp_path):
    """The first time it says 75, as a run that has saved its state; the second time it ends."""
    mark = tmp_path / "mark"
    program = (
        f"import pathlib, sys; p = pathlib.Path({str(mark)!r}); n = p.exists(); p.touch(); "
        f"sys.exit(0 if n else {STOPPED})"
    )
    assert command(["run", str(write_file(tmp_path, program))]) == 0


def test_one_line_of_an_array(tmp_path):
    file = write_file(tmp_path, "print('one')", "print('two')")
    assert command(["run", str(file), "--line", "4"]) == 0
    assert [log.name for log in (tmp_path / "jobs.txt.logs").iterdir()] == ["line-0004.log"]
    with pytest.raises(UsageError, match="no command on line 2"):
        command(["run", str(file), "--line", "2"])


def test_our_commands_run_with_this_python():
    words = find_words("defense-run --name 'a b'")
    assert words == [sys.executable, "-m", "abatis", "run", "--name", "a b"]
    assert find_words("defense eval runs/a")[1:] == ["-m", "abatis", "eval", "runs/a"]


def test_what_cannot_run_is_a_usage_error(tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for words in (["run", "nowhere.txt"], ["run", str(tmp_path / "empty.txt")]):
        with pytest.raises(UsageError):
            command(words)
    file = write_file(tmp_path, "print('one')")
    with pytest.raises(UsageError, match="cluster"):
        command(["run", str(file), "--gpus", "1"])


def test_a_job_that_is_stopped_is_queued_again(tmp_path):
    """As Slurm does it before the time is up: the command hears SIGTERM, and is submitted anew."""
    pytest.importorskip("submitit")
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); time.sleep(60)"
    one = OneLine(shlex.join([sys.executable, "-c", program]))
    import threading

    thread = threading.Thread(target=one)
    thread.start()
    while one.process is None:
        pass
    again = one.checkpoint()
    thread.join(10)
    assert not thread.is_alive()
    assert again.function.line == one.line
    assert again.function.process is None


@pytest.mark.slow
def test_submitit_runs_them_here(tmp_path, capsys):
    pytest.importorskip("submitit")
    one = tmp_path / "one.txt"
    file = write_file(tmp_path, f"open({str(one)!r}, 'w').write('1')", "raise SystemExit(4)")
    assert command(["run", str(file), "--launcher", "local"]) == 4
    assert one.read_text() == "1"
    assert "1 of 2 commands ended" in capsys.readouterr().out
