"""The file of commands that ``defense compare --jobs`` writes."""

from __future__ import annotations

import shlex

from abatis.commands.compare import command
from abatis.commands.compare.methods import plan_methods
from abatis.config.command_line import parse_run
from tests.commands.compare.test_command import TINY, finished


def test_a_line_for_every_run_that_is_not_finished(tmp_path, capsys):
    """Each line is the run that compare would train, and may be repeated."""
    finished(tmp_path, "at")
    file = tmp_path / "list" / "jobs.txt"
    words = f"--methods at mart --seeds 2 {TINY} --out {tmp_path} --jobs {file}".split()
    assert command(words) == 0
    lines = [shlex.split(line) for line in file.read_text().splitlines()]
    assert [line[line.index("--name") + 1] for line in lines] == ["at-s1", "mart-s0", "mart-s1"]
    assert not (tmp_path / "mart-s0").exists()
    planned = plan_methods(["mart"], 2, TINY.split(), tmp_path, "")[0].configs[1]
    assert lines[2][0] == "defense-run"
    asked = parse_run(lines[2][1:])
    assert asked.to_toml() == planned.to_toml()
    assert (asked.name, asked.resume) == ("mart-s1", True)
    assert f"defense jobs run {file}" in " ".join(capsys.readouterr().out.split())
